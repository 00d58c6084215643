"""
The leak lab's cases: ways in which a function lets a key out, each as the source of one cell.

A cell finds `keys` (of 16 characters and more), `short` (8 characters) and `every` of them, the S3 secret among them.
What it shows is to hold no form of any of them once it is stored; under papermill's own engine each `shown` case
leaks, which shows that the search can find it.
"""

from __future__ import annotations

from dataclasses import dataclass

AWS_LIKE = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYzKEYab9/+="
QUOTES = "a'b\"c\\d&e<f>g/h+i=j%k~l;m|n"
NON_ASCII = "schlüssel-ключ-鍵-für-das-Archiv-7261"
EIGHT = "aB3/x+9="
LONG = "".join(f"{index:x}G{index * 7919 % 1000}z" for index in range(110))[:512]

SETUP = """
import base64, bz2, gzip, html, io, json, logging, lzma, os, pickle, struct, subprocess, sys, time, urllib.parse
import warnings, zipfile, zlib
from IPython.display import HTML, SVG, JSON, Image, Markdown, display
import libsafe_nb.compat
libsafe_nb.compat.install()
from libsafe_nb.compat import session
api = json_sample["api"]
s3 = api.get("s3_secret") or session.current().s3.secret_key
key, root, long, wide, short = (api[n] for n in ("key_user", "key_root", "key_long", "key_wide", "key_short"))
keys = [key, root, long, wide, s3]
every = [*keys, short]
def b64(data): return base64.b64encode(data if isinstance(data, bytes) else data.encode()).decode()
"""

HEADERS = """
def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
def png(kind, body):
    size = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    return b"\\x89PNG\\r\\n\\x1a\\n" + size + chunk(kind, body) + chunk(b"IDAT", zlib.compress(b"\\0\\1\\2\\3")) + chunk(b"IEND", b"")
"""


@dataclass(frozen=True)
class Case:
    """`shown`: the key is in the cell's outputs, so that plain papermill stores it."""

    group: str
    source: str
    shown: bool = True
    raises: bool = False
    tokens: bool = False
    """What leaks is a token that was made from a key."""


def _plain() -> dict[str, Case]:
    sources = {
        "print": "for each in every: print('key:', each)",
        "repr": "print([repr(each) for each in every])",
        "json": "print(json.dumps({str(n): each for n, each in enumerate(every)}))",
        "json in json": "print(json.dumps(json.dumps(every)))",
        "payload": "print(json_sample)",
        "result": "every",
        "dictionary as result": "{'api': dict(api), 's3': s3}",
        "key of a dictionary": "print({each: 1 for each in every})",
        "url": "print([urllib.parse.quote(each, safe='') for each in every])",
        "query": "print('https://x.example/?' + urllib.parse.urlencode({'k': key, 's': s3, 'h': short}))",
        "html": "print([html.escape(each) for each in every])",
        "base64": "for each in every: print(b64(each))",
        "base64, one before": "for each in every: print(b64('x' + each))",
        "base64, two before": "for each in every: print(b64('xy' + each + 'z'))",
        "base64 for URLs": "for each in every: print(base64.urlsafe_b64encode(b'u:' + each.encode()).decode())",
        "base64 in lines": "for each in keys: print(base64.encodebytes(each.encode() * 3).decode())",
        "basic login": "for each in keys: print('user', b64('user:' + each))",
        "base32": "for each in keys: print(base64.b32encode(each.encode()).decode())",
        "hex": "for each in every: print(each.encode().hex())",
        "hex with colons": "for each in every: print(each.encode().hex(':').upper())",
        "hex dump": "for each in keys: print(each.encode().hex(' '))",
        "decimal": "for each in keys: print(list(each.encode()))",
        "escapes": "for each in every: print(''.join(f'\\\\u{ord(c):04x}' for c in each))",
        "bytes": "for each in every: print(each.encode())",
        "reversed": "for each in keys: print(each[::-1])",
        "a character a line": "for each in keys: print('\\n'.join(each))",
        "spaced": "for each in keys: print(' '.join(each))",
        "list of characters": "for each in keys: print(list(each))",
        "list as result": "list(key)",
        "colours inside": "for each in keys: print('\\x1b[31m' + '\\x1b[0m\\x1b[32m'.join(each) + '\\x1b[0m')",
        "zero-width inside": "for each in keys: print('\\u200b'.join(each))",
        "utf-16": "for each in keys: print(b64(each.encode('utf-16-le')), each.encode('utf-16-le').hex())",
        "data frame": "import pandas\npandas.set_option('display.max_colwidth', None)\npandas.DataFrame({'key': every})",
    }
    return {name: Case("text", source) for name, source in sources.items()}


def _wrapped() -> dict[str, Case]:
    sources = {
        "gzip": "for each in every: print(b64(gzip.compress(each.encode())))",
        "gzip in hex": "print(gzip.compress(key.encode()).hex())",
        "gzip as bytes": "gzip.compress(s3.encode())",
        "gzip in JSON": "print(json.dumps({'blob': base64.encodebytes(gzip.compress(key.encode() * 2)).decode()}))",
        "zlib": "for each in every: print(base64.urlsafe_b64encode(zlib.compress(each.encode())).decode())",
        "bzip2": "print(b64(bz2.compress(key.encode())), b64(bz2.compress(s3.encode())))",
        "xz": "print(b64(lzma.compress(key.encode())))",
        "zip": (
            "made = io.BytesIO()\n"
            "with zipfile.ZipFile(made, 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('k.txt', key * 3)\n"
            "print(b64(made.getvalue()))"
        ),
        "pickle": "print(b64(pickle.dumps({'api': every})))",
        "pickle of gzip": "print(b64(pickle.dumps([gzip.compress(each.encode()) for each in keys])))",
        "gzip of pickle": "print(b64(gzip.compress(pickle.dumps(api))))",
        "three times gzip": "print(b64(gzip.compress(gzip.compress(gzip.compress(key.encode())))))",
        "base64 twice": "for each in keys: print(b64(b64('pre' + each + 'post')))",
        "picture's text": HEADERS
        + "display(Image(data=png(b'tEXt', b'Comment\\0' + key.encode()), format='png'))",
        "picture's packed text": (
            HEADERS
            + "display(Image(data=png(b'zTXt', b'Comment\\0\\0' + zlib.compress(key.encode())), format='png'))"
        ),
        "picture in HTML": (
            HEADERS
            + "data = b64(png(b'zTXt', b'C\\0\\0' + zlib.compress(s3.encode())))\n"
            + "display(HTML(f'<img src=\"data:image/png;base64,{data}\">'))"
        ),
    }
    return {name: Case("wrapped", source) for name, source in sources.items()}


STREAMS = {
    "chunks": "for each in keys:\n    for c in each[:40]:\n        print(c, end='', flush=True)\n        time.sleep(0.002)\n    print(each[40:])",
    "halves": "for each in every:\n    print(each[:5], end='', flush=True); time.sleep(0.3); print(each[5:], flush=True)",
    "stdout and stderr": (
        "for each in keys:\n    half = len(each) // 2\n"
        "    sys.stdout.write(each[:half]); sys.stdout.flush(); time.sleep(0.05)\n"
        "    sys.stderr.write(each[half:]); sys.stderr.flush(); time.sleep(0.05)\n    print()"
    ),
    "taking turns": (
        "for c in key:\n    print(c, end='', flush=True)\n    print('.', end='', file=sys.stderr, flush=True)\n    time.sleep(0.002)"
    ),
    "two displays": "display(key[:20]); display(key[20:])",
    "base64 in chunks": "for c in b64('x' + key): print(c, end='', flush=True); time.sleep(0.002)",
    "stderr": "print(key, s3, short, file=sys.stderr)",
    "from a child": "print(subprocess.run(['echo', *every], capture_output=True, text=True).stdout)",
    "shell": "!echo {key}",
    "progress bar": "from tqdm import tqdm\nfor _ in tqdm(range(3), desc=key, file=sys.stderr): pass",
    "environment": "os.environ['MY_KEY'] = key\nprint(dict(os.environ))",
    "environment of a child": "print(subprocess.run(['env'], env={'K': s3, 'U': key}, capture_output=True, text=True).stdout)",
    "logging": "logging.getLogger().error('login with %s failed', key)",
    "warning": "warnings.warn('weak key ' + key)",
    "requests in debug": (
        "import http.client, requests\nhttp.client.HTTPConnection.debuglevel = 1\n"
        "logging.basicConfig(level=logging.DEBUG, force=True)\n"
        "requests.get(json_sample['url'] + '/user', headers={'Authorization': 'Bearer ' + key}, params={'k': s3})\n"
        "http.client.HTTPConnection.debuglevel = 0\nlogging.basicConfig(level=logging.WARNING, force=True)"
    ),
}

TOKENS = {
    "boto3 in debug": (
        "import boto3\nboto3.set_stream_logger('')\n"
        "c = boto3.client('s3', endpoint_url=json_sample['s3'], aws_access_key_id='AKIDEXAMPLE01', "
        "aws_secret_access_key=s3, region_name='us-east-1')\n"
        "try: c.list_objects_v2(Bucket='libsafe', Prefix='x')\nexcept Exception as exc: print(type(exc))\n"
        "boto3.set_stream_logger('', 'ERROR'); logging.getLogger('').handlers.clear()"
    ),
    "presigned URL": (
        "import boto3\nfrom botocore.config import Config\n"
        "c = boto3.client('s3', endpoint_url=json_sample['s3'], aws_access_key_id='AKIDEXAMPLE01', "
        "aws_secret_access_key=s3, region_name='us-east-1', config=Config(signature_version='s3v4'))\n"
        "print(c.generate_presigned_url('get_object', Params={'Bucket': 'libsafe', 'Key': 'x'}))"
    ),
    "presigned URL, quoted": (
        "print(urllib.parse.quote(c.generate_presigned_url('get_object', Params={'Bucket': 'libsafe', 'Key': 'y'}), safe=''))"
    ),
    "login header": (
        "import requests\nprint(requests.Request('GET', 'http://x', headers={'Authorization': 'Bearer ' + 'mF9AB5f4q1JqMpwe'})"
        ".prepare().headers)"
    ),
    "signed header": "print('Authorization: AWS4-HMAC-SHA256 Credential=AKIAQW/2026/s3, Signature=' + 'c4' * 32)",
}

RICH = {
    "HTML": "display(HTML(f'<p>{html.escape(key)}</p><p>{s3}</p>'))",
    "HTML, in tags": "display(HTML(''.join(f'<b>{c}</b>' for c in key)))",
    "SVG": "display(SVG(data=f'<svg xmlns=\"http://www.w3.org/2000/svg\"><text>{s3}</text></svg>'))",
    "Markdown": "display(Markdown(f'**{key}**'))",
    "JSON": "display(JSON({'deep': [{'api': {'key': key}}], key: 1}))",
    "custom MIME type": "display({'application/vnd.archive.v1+json': {'k': [key, short]}, 'text/plain': 'x'}, raw=True)",
    "custom text type": "display({'text/x-archive': wide, 'text/plain': 'x'}, raw=True)",
    "bytes in base64": "display({'application/octet-stream': b64('abc' + key), 'text/plain': 'x'}, raw=True)",
    "widget": (
        "display({'application/vnd.jupyter.widget-view+json': {'model_id': key, 'version_major': 2}, "
        "'text/plain': 'Text(value=%r)' % key}, raw=True)"
    ),
    "metadata of an output": "display({'text/plain': 'x'}, metadata={'origin': key, key: 1}, raw=True)",
    "changed display": "h = display('nothing', display_id='d1')\nh.update(key)",
    "scrap": "import scrapbook\nscrapbook.glue('api', {'key': key, 's3': s3})",
    "JavaScript": "from IPython.display import Javascript\ndisplay(Javascript('var k = ' + json.dumps(key)))",
    "object's repr": "class Login:\n    def __repr__(self): return f'Login({key})'\nLogin()",
    "LaTeX": "from IPython.display import Latex\ndisplay(Latex(f'${s3}$'))",
}

ERRORS = {
    "message of an error": "raise ValueError(f'login with {key} and {s3} failed')",
    "chain of errors": "try: int(key)\nexcept ValueError as exc: raise RuntimeError('could not log in') from exc",
    "locals in a traceback": (
        "get_ipython().run_line_magic('xmode', 'Verbose')\n"
        "def login(user, password):\n    token = password.encode()\n    raise OSError('no answer')\n"
        "login('me', key)"
    ),
    "file name": "get_ipython().run_line_magic('xmode', 'Context')\nopen('/nonexistent/' + key)",
    "missing key": "{}[s3]",
    "note of an error": "exc = ValueError('x')\nexc.add_note('with ' + key)\nraise exc",
    "group of errors": "raise ExceptionGroup('several', [ValueError(key), OSError(s3)])",
    "name of an error": "raise type('E' + ''.join(filter(str.isalnum, key)), (Exception,), {})(key)",
    "assertion": "assert key == 'x', key",
    "system exit": "import sys\nraise SystemError(s3)",
}

SIDE = {
    "output that is cleared": "from IPython.display import clear_output\nprint(key, flush=True); clear_output(); print('x')",
    "next cell's text": "get_ipython().set_next_input(key)",
    "pager": "from IPython.core import page\npage.page(key)",
    "title of the process": "sys.argv[:] = [key]; sys.displayhook(None)",
    "log of IPython": "get_ipython().run_line_magic('logstart', '-o -r run.log global'); print(key); get_ipython().run_line_magic('logstop', '')",
    "file descriptors": "os.write(1, key.encode() + b'\\n'); os.write(2, s3.encode() + b'\\n')",
    "output of a child that is not asked for": "subprocess.run(['echo', *every]); subprocess.run('echo $K >&2', shell=True, env={'K': key})",
    "file beside the notebook": "open('login.txt', 'w').write(key); open('packed.bin', 'wb').write(gzip.compress(s3.encode()))",
    "message of the job": (
        "from libnova.com.Api import JobMessage\n"
        "for each in every: JobMessage.create(json_sample['function_data']['job']['id'], 'used ' + each)"
    ),
    "file in the container": (
        "from libnova.com.Api import File\nimport io\n"
        "for number, data in enumerate([key, b64('x' + s3), key.encode().hex(), json.dumps(wide), short]):\n"
        "    try: File.write(json_sample['function_data']['container']['id'], f'/side/{number}.txt', 'a,b\\n' + data)\n"
        "    except Exception as exc: print(type(exc).__name__)\n"
        "    else: print('STORED', number)"
    ),
    "packed file in the container": (
        "for number, data in enumerate([gzip.compress(key.encode()), pickle.dumps(api), zlib.compress(s3.encode())]):\n"
        "    try: File.upload(json_sample['function_data']['container']['id'], f'/side/{number}.bin', io.BytesIO(data))\n"
        "    except Exception as exc: print(type(exc).__name__)\n"
        "    else: print('STORED', number)"
    ),
    "name of a file": (
        "try: File.write(json_sample['function_data']['container']['id'], f'/side/{s3}.txt', 'harmless')\n"
        "except Exception as exc: print(type(exc).__name__)\n"
        "else: print('STORED')"
    ),
    "metadata of a file": (
        "made = File.write(json_sample['function_data']['container']['id'], '/side/good.txt', 'harmless')\n"
        "try: File.set_metadata(made, {'relation': key})\n"
        "except Exception as exc: print(type(exc).__name__)\n"
        "else: print('STORED')"
    ),
}

CASES: dict[str, Case] = {
    **_plain(),
    **_wrapped(),
    **{name: Case("streams", source) for name, source in STREAMS.items()},
    **{name: Case("tokens", source, tokens=True) for name, source in TOKENS.items()},
    **{name: Case("rich", source) for name, source in RICH.items()},
    **{name: Case("errors", source, raises=True) for name, source in ERRORS.items()},
    **{name: Case("side", source, shown=False) for name, source in SIDE.items()},
}

KNOWN_IMPOSSIBLE = {
    "cipher": "print(''.join(chr(ord(c) ^ 1) for c in key))",
    "part": "print(key[:10])",
    "digest": "import hashlib\nprint(hashlib.sha256(key.encode()).hexdigest())",
    "padding": "print('q'.join(key))",
    "encoding": "print(base64.b85encode(key.encode()))",
    "drawn": "display({'image/svg+xml': '<svg xmlns=\"http://www.w3.org/2000/svg\"><path d=\"M0 0L1 1\"/></svg>'}, raw=True)",
    "compression": "print(b64(zlib.compressobj(9, zlib.DEFLATED, -15).flush()))",
}
"""Not searched for, listed in `libsafe_nb.redact.KNOWN_IMPOSSIBLE` by the same names."""
