/*
 * The JupyterLab 4 extension: New → LIBSAFE Go function, and what the storage refuses told in words.
 *
 * JupyterLab asks a prebuilt extension for a module federation container: `init` gets the modules that the Lab shares,
 * `get` gives the plugins. A bundler would make the same two functions; these are written by hand, so this file is its
 * own source and nothing has to be built. The Lab loads it into every page; where the server is not one of
 * `libsafe-nb lab` (it sets the page option `libsafe`), there are no plugins, and nothing is changed or asked.
 */
'use strict';

(() => {
  const COMMAND = 'libsafe:new-function';
  const LABEL = 'LIBSAFE Go function';
  const ICON = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 52 52">
    <rect x="9" y="4" width="34" height="44" rx="4" fill="#1b5e7d"/>
    <path d="M16 13h20M16 20h12" stroke="#ffffff" stroke-width="3" stroke-linecap="round"/>
    <path d="M21 27v15l13-7.5z" fill="#ffc857"/></svg>`;

  const STYLE = `
    .libsafe-new { display: grid; gap: 8px; min-width: 640px; }
    .libsafe-new p { margin: 8px 0 0; }
    .libsafe-new input[name=title] { display: block; width: 100%; box-sizing: border-box; margin-top: 4px; }
    .libsafe-template { display: grid; grid-template-columns: 24px 88px 1fr; align-items: start; cursor: pointer; }
    .libsafe-template input.jp-mod-styled { appearance: auto; width: 14px; height: 14px; margin: 2px 0 0; }`;

  let shared;

  /** One of the Lab's own modules; where several versions are offered, the one in use. */
  async function lab(name) {
    const offered = Object.values(shared[name] ?? {});
    const found = offered.find(each => each.loaded) ?? offered.at(-1);
    if (found === undefined) {
      throw new Error(`libsafe-nb: this JupyterLab shares no ${name}`);
    }
    return (await found.get())();
  }

  /** Ask the server; an answer that is not one is an error with the server's own sentence. */
  async function ask({ ServerConnection, URLExt }, settings, call, body) {
    const url = URLExt.join(settings.baseUrl, 'libsafe', call);
    const init = body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) };
    const response = await ServerConnection.makeRequest(url, init, settings);
    if (!response.ok) {
      throw await ServerConnection.ResponseError.create(response);
    }
    return response.json();
  }

  /** The question of the dialog: a title, and one of the templates. */
  function form(templates) {
    const node = element('form', { className: 'libsafe-new' }, element('style', {}, STYLE));
    node.addEventListener('submit', event => event.preventDefault());
    const title = element('input', { name: 'title', maxLength: 200, placeholder: 'My function' });
    node.append(element('label', {}, 'Title', title), element('p', {}, 'Begin from'));
    templates.forEach(({ name, description }, index) => {
      const button = element('input', { type: 'radio', name: 'template', value: name, checked: index === 0 });
      const words = [element('strong', {}, name), element('span', {}, description)];
      node.append(element('label', { className: 'libsafe-template' }, button, ...words));
    });
    return node;
  }

  function element(tag, properties, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  async function plugins() {
    const { PageConfig, URLExt } = await lab('@jupyterlab/coreutils');
    if (PageConfig.getOption('libsafe') !== 'true') {
      return [];
    }
    const { ServerConnection } = await lab('@jupyterlab/services');
    const { Dialog, ICommandPalette, showDialog, showErrorMessage } = await lab('@jupyterlab/apputils');
    const { IDefaultFileBrowser } = await lab('@jupyterlab/filebrowser');
    const { ILauncher } = await lab('@jupyterlab/launcher');
    const { IMainMenu } = await lab('@jupyterlab/mainmenu');
    const { LabIcon } = await lab('@jupyterlab/ui-components');
    const { Widget } = await lab('@lumino/widgets');
    const server = { ServerConnection, URLExt };

    /** Ask which template, unless the caller has said; null where the question was cancelled. */
    async function choose(settings, args) {
      if (args.template) {
        return { template: args.template, title: args.title ?? '' };
      }
      const node = form(await ask(server, settings, 'templates'));
      const body = new Widget({ node });
      body.getValue = () => Object.fromEntries(new FormData(node));
      const buttons = [Dialog.cancelButton(), Dialog.okButton({ label: 'Create' })];
      const answer = await showDialog({ title: `New ${LABEL}`, body, buttons, focusNodeSelector: 'input' });
      return answer.button.accept ? answer.value : null;
    }

    const creation = {
      id: 'libsafe-nb:function',
      description: 'Makes a function notebook from a template, in the folder that is open, and opens it.',
      autoStart: true,
      optional: [IDefaultFileBrowser, ILauncher, IMainMenu, ICommandPalette],
      activate: (app, browser, launcher, menu, palette) => {
        const settings = app.serviceManager.serverSettings;
        app.commands.addCommand(COMMAND, {
          label: args => (args.menu ? LABEL : `New ${LABEL}`),
          caption: 'Create a function notebook from a template',
          icon: new LabIcon({ name: 'libsafe-nb:function', svgstr: ICON }),
          execute: async args => {
            try {
              const chosen = await choose(settings, args);
              if (chosen === null) {
                return undefined;
              }
              const folder = args.cwd ?? browser?.model.path ?? '';
              const { path } = await ask(server, settings, 'new', { ...chosen, folder });
              await browser?.model.refresh();
              return app.commands.execute('docmanager:open', { path, factory: 'Notebook' });
            } catch (error) {
              return showErrorMessage(`No ${LABEL} was created`, error);
            }
          },
        });
        const kernelIconUrl = `data:image/svg+xml,${encodeURIComponent(ICON)}`;
        launcher?.add({ command: COMMAND, args: { menu: true }, category: 'Notebook', rank: 10, kernelIconUrl });
        menu?.fileMenu.newMenu.addItem({ command: COMMAND, args: { menu: true }, rank: 5 });
        palette?.addItem({ command: COMMAND, category: 'LIBSAFE Go' });
        app.contextMenu.addItem({ command: COMMAND, selector: '.jp-DirListing-content', rank: 54 });
      },
    };

    /*
     * The file browser asks for its folder again and again, and keeps quiet about every refusal but 404. A key that was
     * revoked would look like an empty container. Each sentence is told once, until the page is loaded anew.
     */
    const refusal = {
      id: 'libsafe-nb:refusal',
      description: 'Tells what the file browser keeps to itself: that the container refuses the key.',
      autoStart: true,
      requires: [IDefaultFileBrowser],
      activate: (app, browser) => {
        const told = new Set();
        browser.model.connectionFailure.connect((model, error) => {
          if (error.response?.status === 403 && !told.has(error.message)) {
            told.add(error.message);
            void showErrorMessage('The container cannot be read', error);
          }
        });
      },
    };

    return [creation, refusal];
  }

  globalThis._JUPYTERLAB = globalThis._JUPYTERLAB ?? {};
  globalThis._JUPYTERLAB['libsafe-nb'] = {
    init: scope => {
      shared = scope;
    },
    get: async () => {
      const found = await plugins();
      return () => ({ __esModule: true, default: found });
    },
  };
})();
