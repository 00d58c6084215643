"""Links are signed with the user's key and stamped by an authority, once, whatever happens, and checked by others."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import tampering
from attesters import Authority, key_pair, needs_openssl, openssl, public, serve
from click.testing import CliRunner
from test_chain import unbroken
from test_run import command_environment

import libsafe_nb
from libsafe_nb import chain, doctor, recover, signing, timestamping
from libsafe_nb.cli import cli
from libsafe_nb.errors import SettingsError, TimeStampRefused, UsageError
from libsafe_nb.journal import FOLDER
from libsafe_nb.storage import Storage

pytestmark = needs_openssl
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("attesters")


@pytest.fixture(scope="module")
def key(folder):
    return key_pair(folder, "key")


@pytest.fixture(scope="module")
def authority(folder):
    return Authority(folder / "authority")


@pytest.fixture
def tsa(authority):
    with serve(authority) as served:
        yield served


@pytest.fixture
def settings(platform, key, tsa, tmp_path):
    """Those of the platform, with a key, an authority, and a home of the test's own."""
    return dataclasses.replace(platform.settings, sign_key=key, tsa_url=tsa.url, home=tmp_path / "state")


@pytest.fixture
def signed_run(notebook, container, settings):
    def signed_run(*cells, **changes):
        used = dataclasses.replace(settings, **changes)
        return libsafe_nb.run(None, notebook(*cells or ("print(1)",)), container=container, settings=used)

    return signed_run


@pytest.fixture
def verify(container, platform, key, authority):
    def verify(**options):
        given = {"keys": [public(key)], "tsa_certs": [authority.root], "settings": platform.settings}
        return libsafe_nb.verify(container, **{**given, **options})

    return verify


@pytest.fixture
def messages(connection):
    return lambda job: connection.client.messages(job)


def found(report):
    return {(each.name, each.result) for each in report.checks}


# The key and the authority that are set -----------------------------------------------------------------------------


def bad_keys(folder):
    good = key_pair(folder, "good")
    encrypted, other, none = (folder / f"{name}.pem" for name in ("encrypted", "other", "none"))
    openssl("genpkey", "-algorithm", "ed25519", "-aes256", "-pass", "pass:x", "-out", encrypted)
    openssl("genpkey", "-algorithm", "ed448", "-out", other)
    none.write_text("hello")
    public(good).chmod(0o600)
    yield folder / "absent.pem", "No such file or directory"
    yield folder, "Is a directory"
    yield encrypted, "an encrypted one"
    yield other, "another kind of key (Ed448PrivateKey)"
    yield none, "no private key"
    yield public(good), "a public key"


def test_a_key_that_is_none_is_told_in_a_sentence(tmp_path):
    for path, what in bad_keys(tmp_path / "keys"):
        if path.is_file():
            path.chmod(0o600)
        with pytest.raises(SettingsError) as told:
            signing.signer(path)
        expected = "expected an Ed25519 private key (PKCS#8 PEM, not encrypted)"
        assert str(told.value) == f"LIBSAFE_SIGN_KEY: {path}: {expected}, found {what}"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_key_that_others_may_read_is_refused_as_ssh_does(tmp_path, mode):
    private = key_pair(tmp_path, "key")
    private.chmod(mode)

    with pytest.raises(SettingsError, match=f"chmod 600 {private}"):
        signing.signer(private)


def test_a_public_key_that_is_none_is_bad_usage(tmp_path, key):
    (tmp_path / "x.pem").write_text("x")
    for path, what in [(tmp_path / "x.pem", "none"), (key, "a private key"), (tmp_path / "y", "No such")]:
        with pytest.raises(UsageError, match=f"expected an Ed25519 public key .*found {what}"):
            libsafe_nb.verify(tmp_path, keys=[path])
    with pytest.raises(UsageError, match=r"expected certificates \(PEM\), found none"):
        libsafe_nb.verify(tmp_path, tsa_certs=[tmp_path / "x.pem"])


def program(tmp_path, notebook, **environ):
    """The program without a platform, in a home of its own: nothing may be started there."""
    home = tmp_path / "home"
    environ = {"LIBSAFE_NB_HOME": str(home), "XDG_CONFIG_HOME": str(tmp_path), "PATH": "/usr/bin", **environ}
    command = [sys.executable, "-m", "libsafe_nb", "run", str(notebook)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    return done, home


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("LIBSAFE_SIGN_KEY", "/nowhere/key.pem", "/nowhere/key.pem: expected an Ed25519 private key"),
        ("LIBSAFE_TSA_URL", "ftp://user:secret@example.org", "LIBSAFE_TSA_URL: expected an http://"),
    ],
)
def test_a_bad_setting_starts_nothing(tmp_path, notebook, name, value, told):
    done, home = program(tmp_path, notebook("1"), **{name: value})

    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr
    assert not home.exists()


def test_config_toml_names_them_too(tmp_path, notebook):
    (tmp_path / "libsafe-nb").mkdir()
    (tmp_path / "libsafe-nb" / "config.toml").write_text('sign_key = "/nowhere/key.pem"\n')

    done, home = program(tmp_path, notebook("1"))

    assert done.returncode == 2
    assert "/nowhere/key.pem" in done.stderr
    assert not home.exists()


@pytest.mark.parametrize("name", ["sign_key", "tsa_url"])
def test_without_the_extra_a_run_that_is_to_be_signed_is_refused(
    signed_run, connection, container, monkeypatch, name
):
    monkeypatch.setattr(signing, "_NEEDED", ("no_such_module",))
    other = {"sign_key", "tsa_url"} - {name}

    with pytest.raises(SettingsError, match=r"pip install 'libsafe-nb\[sign\]'"):
        signed_run(**dict.fromkeys(other))
    assert not list(connection.storage.list(container))


def test_doctor_tells_who_signs(key, tsa, monkeypatch, tmp_path):
    def told():
        return [(each.ok, each.found) for each in doctor.examine() if each.name == "signing"]

    assert told() == []
    monkeypatch.setenv("LIBSAFE_SIGN_KEY", str(key))
    monkeypatch.setenv("LIBSAFE_TSA_URL", tsa.url)
    key_id = signing.public_key(public(key)).id
    assert told() == [(True, f"links are signed with {key} (key {key_id[:16]}…), and stamped by {tsa.url}")]
    monkeypatch.setenv("LIBSAFE_SIGN_KEY", str(tmp_path / "none"))
    assert [ok for ok, _ in told()] == [False]
    assert tsa.queries == []


def test_a_recovery_with_a_bad_key_does_nothing(settings, tmp_path):
    with pytest.raises(SettingsError, match="LIBSAFE_SIGN_KEY"):
        list(recover.recover(settings=dataclasses.replace(settings, sign_key=tmp_path / "none")))


# A run --------------------------------------------------------------------------------------------------------------


def private_forms(key):
    """The key's bytes and the ways to write them that a leak would have."""
    body = "".join(key.read_text().splitlines()[1:-1])
    seed = base64.b64decode(body)[-32:]
    return [body.encode(), seed, seed.hex().encode(), base64.b64encode(seed)]


def test_a_run_is_signed_and_stamped_and_others_can_check_it(
    signed_run, verify, connection, container, key, settings, tmp_path, authority, messages
):
    done = signed_run(
        "import os\nprint([name for name in os.environ if 'SIGN' in name or 'TSA' in name])",
        f"print(open({str(key)!r}).read().splitlines()[1])",
    )

    assert done.exit_code == 0
    report = verify()
    assert (report.exit_code, report.checks) == (0, ())
    assert not [each for each in messages(done.job) if each["type"] == "WARNING"]
    # The key is nowhere, though a cell printed it, and the kernel was not told where it is.
    copy = tampering.download(connection, container, tmp_path / "copy")
    everything = [each.read_bytes() for each in copy.root.rglob("*") if each.is_file()]
    everything += [each.read_bytes() for each in settings.home.rglob("*") if each.is_file()]
    everything += [json.dumps(each).encode() for each in messages(done.job)]
    for form in private_forms(key):
        assert not [data for data in everything if form in data]
    (folder,) = copy.folders()
    outputs = [cell.get("outputs") for cell in json.loads((folder / "executed.ipynb").read_bytes())["cells"]]
    assert "[redacted:sign_key]" in str(outputs)
    assert "['[]" in str(outputs) or "'[]\\n'" in str(outputs)

    # As the docs tell, with OpenSSL alone.
    page = (ROOT / "docs" / "verification.md").read_text()
    script = re.search(r"<!-- by hand -->\n```sh\n(.*?)```", page, re.DOTALL)[1]
    environ = {
        "PATH": "/usr/bin:/bin",
        "TMPDIR": str(tmp_path),
        "KEY": str(public(key)),
        "ROOT": str(authority.root),
    }
    by_hand = ["sh", "-e", "-c", script]
    told = subprocess.run(by_hand, cwd=copy.root, env=environ, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    for line in ("Signature Verified Successfully", "urn:libsafe-nb:link:1", "Verification: OK"):
        assert line in told.stdout + told.stderr
    # The keyid, too, can be had without us.
    der = openssl("pkey", "-pubin", "-in", public(key), "-outform", "DER")
    (envelope,) = tampering.envelopes(copy)
    (signature,) = json.loads(envelope.read_bytes())["signatures"]
    assert signature["keyid"] == tampering.digest(der)
    # And by hand the forgery is seen, too.
    envelope.write_bytes(envelope.read_bytes().replace(signature["sig"][:4].encode(), b"AAAA"))
    told = subprocess.run(by_hand, cwd=copy.root, env=environ, capture_output=True, text=True)
    assert told.returncode != 0


def test_without_settings_nothing_is_signed(run, notebook, connection, container):
    run(notebook("print(1)"))

    assert [each.path for each in connection.storage.list(container, f"{chain.FOLDER}/")] == [chain.path(1)]


# The authority does what it likes ---------------------------------------------------------------------------------


def refused(tsa, *, budget=1.5, url=None):
    """What is told of it, and after how many seconds."""
    began = time.monotonic()
    with pytest.raises(TimeStampRefused) as told:
        timestamping.authority(url or tsa.url).stamp(b"link", budget=budget)
    return str(told.value), time.monotonic() - began


def another_query(authority, query, *options):
    """An answer to a question of somebody else's."""
    asked = openssl("ts", "-query", "-data", "/dev/stdin", "-sha256", *options, stdin=b"link")
    return authority.reply(asked)


ANSWERS = {
    "garbage": (lambda a, q: (200, b"<html>" * 100), "found 600 bytes that are none"),
    "nothing": (lambda a, q: (200, b""), "found 0 bytes that are none"),
    "another-imprint": (lambda a, q: (200, a.stamp(b"something else")), "expected a time stamp of "),
    "another-nonce": (lambda a, q: (200, another_query(a, q, "-cert")), "another nonce"),
    "no-nonce": (lambda a, q: (200, another_query(a, q, "-cert", "-no_nonce")), "another nonce"),
    "rejection": (lambda a, q: (200, a.reply(q[:20])), "expected status 0 (granted), found 2"),
    "too-long": (lambda a, q: (200, a.reply(q) + b"0" * 70_000), "at most 65536 bytes"),
    "a-byte-more": (lambda a, q: (200, a.reply(q) + b"0"), "bytes that are none"),
    "not-found": (lambda a, q: (404, b""), "expected HTTP 200, found 404"),
    "redirect": (lambda a, q: (302, b""), "expected HTTP 200, found 302"),
    "error": (lambda a, q: (500, b""), "the last: HTTP 500"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_is_not_one_to_the_question_is_refused(tsa, authority, name):
    answer, told = ANSWERS[name]
    tsa.answer = lambda query: answer(authority, query)

    text, seconds = refused(tsa)

    assert told in text
    assert text.startswith(tsa.url)
    assert seconds < 4
    # What may pass is tried again, what is said plainly is not.
    assert (len(tsa.queries) > 1) == (name == "error")


def test_an_authority_that_is_away_or_slow_is_given_up_in_time(tsa, authority):
    assert "no answer in" in refused(tsa, url="http://127.0.0.1:9/tsr", budget=1)[0]
    tsa.drip = 0.02
    text, seconds = refused(tsa, budget=1)
    assert "no answer in" in text
    assert seconds < 2
    tsa.drip = 0
    tsa.answer = lambda query: time.sleep(3) or (200, b"")
    text, seconds = refused(tsa, budget=1)
    assert seconds < 2


def test_an_authority_that_has_a_bad_moment_is_asked_again(tsa, authority):
    tsa.answer = lambda query: (200, authority.reply(query)) if len(tsa.queries) > 2 else (503, b"")

    answer = timestamping.authority(tsa.url).stamp(b"link")

    read = timestamping.decoded(answer)
    assert timestamping.imprint_problem(read, b"link") is None
    assert len(tsa.queries) == 3


def test_an_address_with_a_password_is_not_told(tsa):
    text, _ = refused(tsa, url="http://user:secret@127.0.0.1:9/tsr?token=hidden", budget=0.5)

    assert text.startswith("http://127.0.0.1:9/tsr: ")
    assert not {"secret", "hidden"} & set(re.findall(r"\w+", text))


def test_a_stamp_is_checked_at_its_own_time_when_the_certificate_has_ended(folder):
    """In twenty years, that is; here, three seconds."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    authority = Authority(folder / "short")
    private = serialization.load_pem_private_key((authority.folder / "root.key").read_bytes(), None)
    old = x509.load_pem_x509_certificate((authority.folder / "tsa.pem").read_bytes())
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=3)
    made = x509.CertificateBuilder().subject_name(old.subject).issuer_name(old.issuer)
    made = made.public_key(old.public_key()).serial_number(old.serial_number)
    made = made.not_valid_before(old.not_valid_before_utc).not_valid_after(end)
    for each in old.extensions:
        made = made.add_extension(each.value, each.critical)
    signed = made.sign(private, hashes.SHA256())
    (authority.folder / "tsa.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    answer = timestamping.decoded(authority.stamp(b"link"))
    time.sleep(max((end - datetime.now(UTC)).total_seconds(), 0) + 1)

    assert timestamping.signature_problem(answer, b"link", timestamping.roots(authority.root)) is None
    with pytest.raises(AssertionError, match="expired"):
        openssl("verify", "-CAfile", authority.root, authority.folder / "tsa.pem")


def test_a_run_without_its_stamp_is_completed_and_its_job_warned(signed_run, verify, tsa, messages):
    tsa.answer = lambda query: (404, b"")

    done = signed_run()

    assert (done.status, done.exit_code) == ("completed", 0)
    (warning,) = [each["message"] for each in messages(done.job) if each["type"] == "WARNING"]
    assert warning.startswith("link 1 has no time stamp, and is complete without it: http://127.0.0.1")
    report = verify()
    assert [(each.name, each.result, each.place) for each in report.checks] == [
        ("timestamp", "missing", chain.stamp(1))
    ]
    assert verify(tsa_certs=()).exit_code == 0


# Interrupted --------------------------------------------------------------------------------------------------------


class Killed(SystemExit):
    pass


def killed_at(monkeypatch, end, *, after=False, folder=chain.FOLDER):
    """The runner dies as it puts what ends so: before it is stored, or before the journal can tell."""
    put = Storage.put

    def dying(self, container, path, data, **options):
        if path.startswith(folder) and path.endswith(end):
            if after:
                put(self, container, path, data, **options)
            raise Killed(9)
        return put(self, container, path, data, **options)

    monkeypatch.setattr(Storage, "put", dying)


def versions(connection, container):
    found = [each.path for each in connection.storage.versions(container, f"{chain.FOLDER}/")]
    assert len(set(found)) == len(found)
    return found


@pytest.mark.parametrize(
    ("end", "after"),
    [("01.json", True), (chain.ENVELOPE, False), (chain.ENVELOPE, True), (chain.STAMP, True)],
    ids=["linked", "before-signature", "signed", "stamped"],
)
def test_a_recovery_signs_and_stamps_once_what_a_dead_runner_did_not(
    signed_run, verify, connection, container, settings, tsa, key, monkeypatch, end, after
):
    with monkeypatch.context() as patch:
        killed_at(patch, end, after=after)
        with pytest.raises(Killed):
            signed_run()
    journal = [each.read_bytes() for each in settings.home.rglob("*") if each.is_file()]
    assert journal
    assert not [form for form in private_forms(key) if any(form in each for each in journal)]

    (done,) = recover.recover(settings=settings, lost=False)

    assert done.status == "completed"
    names = [chain.envelope(1), chain.path(1), chain.stamp(1)]
    assert sorted(versions(connection, container)) == names
    # A stamp that was got is kept, though another one would have other bytes.
    assert len(tsa.queries) == 1
    assert verify().exit_code == 0


def test_a_recovery_without_the_key_leaves_the_link_unsigned_and_that_is_told(
    signed_run, verify, settings, monkeypatch
):
    with monkeypatch.context() as patch:
        killed_at(patch, chain.ENVELOPE, after=False)
        with pytest.raises(Killed):
            signed_run()
    bare = dataclasses.replace(settings, sign_key=None, tsa_url=None)

    (done,) = recover.recover(settings=bare, lost=False)

    assert done.status == "completed"
    assert found(verify()) == {("signature", "missing"), ("timestamp", "missing")}
    assert verify(keys=(), tsa_certs=()).exit_code == 0


def test_a_recovery_with_another_key_leaves_the_signature_that_is_there(
    signed_run, verify, settings, folder, monkeypatch, messages
):
    with monkeypatch.context() as patch:
        killed_at(patch, chain.ENVELOPE, after=True)
        with pytest.raises(Killed):
            signed_run()
    other = dataclasses.replace(settings, sign_key=key_pair(folder, "another"))

    (done,) = recover.recover(settings=other, lost=False)

    assert verify().exit_code == 0
    warnings = [each["message"] for each in messages(done.job) if each["type"] == "WARNING"]
    assert warnings == [
        f"{chain.envelope(1)}: expected our signature of the link, found another, which was left"
    ]


def test_the_record_of_a_lost_machine_is_signed_and_stamped_by_who_makes_it(
    signed_run, verify, connection, container, settings, monkeypatch
):
    with monkeypatch.context() as patch:
        killed_at(patch, "/executed.ipynb", folder="provenance/f/")
        with pytest.raises(Killed):
            signed_run()
    shutil.rmtree(settings.home / FOLDER)
    monkeypatch.setattr(Storage, "age", lambda self, container, path: 1e6)

    done = [each for each in recover.recover(settings=settings) if each.container == container]

    assert [each.status for each in done] == ["errored"]
    assert len(versions(connection, container)) == 3
    assert not {"signature", "timestamp"} & {name for name, _ in found(verify())}


# What a verifier is told ----------------------------------------------------------------------------------------------


def test_without_key_and_certificate_nothing_is_called_checked(signed_run, verify, monkeypatch):
    signed_run()

    report = verify(keys=(), tsa_certs=())

    assert report.exit_code == 5
    assert found(report) == {("signature", "not-checked"), ("timestamp", "not-checked")}
    stamp = next(each for each in report.checks if each.name == "timestamp")
    assert f"stamped {datetime.now(UTC):%Y-%m-%d}" in stamp.detail
    # Nor is it where the extra is not installed.
    monkeypatch.setattr(signing, "_NEEDED", ("no_such_module",))
    assert found(verify(keys=(), tsa_certs=())) == found(report)
    with pytest.raises(SettingsError, match="pip install"):
        verify(tsa_certs=())


def test_links_from_before_the_first_signature_are_not_checked_and_never_ok(signed_run, verify):
    signed_run(sign_key=None, tsa_url=None)
    signed_run()

    report = verify()

    assert report.exit_code == 5
    assert found(report) == {("signature", "not-checked"), ("timestamp", "not-checked")}
    assert report.checks[0].detail.startswith("link 1 without a signature: that of link 2 is the first")


def test_what_was_deleted_is_told_where_versions_tell_it_also_without_a_key(
    signed_run, verify, connection, container
):
    signed_run()
    for place in (chain.envelope(1), chain.stamp(1)):
        connection.storage.delete(container, place)

    report = verify(keys=(), tsa_certs=())

    assert [(each.name, each.result, each.place) for each in report.checks] == [
        ("signature", "missing", chain.envelope(1)),
        ("timestamp", "missing", chain.stamp(1)),
    ]
    assert len(verify().checks) == 2


def test_of_several_keys_and_certificates_one_is_enough(signed_run, verify, key, authority, folder):
    signed_run()
    stranger, other = key_pair(folder, "stranger"), Authority(folder / "stranger-authority")

    assert verify(keys=[public(stranger), public(key)], tsa_certs=[other.root, authority.root]).exit_code == 0
    wrong = verify(keys=[public(stranger)], tsa_certs=[other.root])
    assert found(wrong) == {("signature", "changed"), ("timestamp", "changed")}


def test_the_program_takes_keys_and_certificates(
    signed_run, connection, container, key, authority, folder, tmp_path
):
    done = signed_run()
    copy = tampering.download(connection, container, tmp_path / "copy")
    head = f"{copy.head()['seq']}:{copy.head()['sha256']}"
    command = ["verify", str(copy.root), "--head", head, "--key", str(public(key))]
    command += ["--tsa-cert", str(authority.root)]

    well = CliRunner().invoke(cli, [*command, "--verbose"])
    assert well.exit_code == 0, well.output
    assert f"ok  {chain.envelope(1)}: signed by key " in well.output
    assert f"ok  {chain.stamp(1)}: stamped 20" in well.output
    wrong = CliRunner().invoke(cli, [*command[:-4], "--key", str(public(key_pair(folder, "wrong")))])
    assert wrong.exit_code == 1
    assert f"changed  {chain.envelope(1)}: expected a signature by a key that was given" in wrong.output
    # A record's folder has no link beside it.
    alone = shutil.copytree(copy.folders()[0], tmp_path / "alone")
    report = libsafe_nb.verify(alone, keys=[public(key)])
    assert ("signature", "not-checked") in found(report)
    assert report.exit_code == 5
    assert done.exit_code == 0


def test_random_bytes_are_no_signature_and_no_stamp(authority, key):
    """Whatever bytes lie there, they are told; nothing is raised."""
    import random

    chance = random.Random(20261125)
    link = b'{"seq": 1}'
    stamp = authority.stamp(link)
    subjects = {"provenance/chain/00000001.json": tampering.digest(link)}
    envelope = signing.envelope(signing.signer(key), subjects)
    keys, roots = [signing.public_key(public(key))], timestamping.roots(authority.root)
    assert signing.signed_by(envelope, keys)
    for _ in range(300):
        data = bytearray(envelope)
        data[chance.randrange(len(data))] = chance.randrange(256)
        same = json_or_none(data) == json.loads(envelope)
        signed = signing.subject_problem(bytes(data), subjects) is None and signing.signed_by(
            bytes(data), keys
        )
        # The key's id is no part of what is signed (DSSE v1).
        assert same or not signed or without_keyid(data) == without_keyid(envelope)
        data = bytearray(stamp)
        data[chance.randrange(len(data))] = chance.randrange(256)
        read = timestamping.decoded(bytes(data[: chance.choice((len(data), 100))]))
        if read is not None and read.status == 0:
            timestamping.signature_problem(read, link, roots)


def json_or_none(data):
    try:
        return json.loads(data)
    except ValueError:
        return None


def without_keyid(data):
    body = json.loads(data)
    return {**body, "signatures": [{"sig": each["sig"]} for each in body["signatures"]]}


# Many ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_runs_at_once_make_one_chain_all_signed_and_stamped(
    notebook, settings, container, connection, verify
):
    path = notebook("print(1)")
    runs = [libsafe_nb.run(None, path, container=container, settings=settings, wait=False) for _ in range(20)]

    assert {each.wait(240).status for each in runs} == {"completed"}
    names = versions(connection, container)
    links = [connection.storage.get(container, name) for name in names if chain.number(name)]
    assert len(links) == 20
    assert unbroken(links)
    assert sorted(names) == sorted(
        path(seq) for seq in range(1, 21) for path in (chain.path, chain.envelope, chain.stamp)
    )
    report = verify()
    assert (report.exit_code, report.checks) == (0, ())


@pytest.mark.slow
def test_the_program_is_killed_between_link_and_signature(
    platform, notebook, container, connection, settings, tsa, verify, tmp_path
):
    """SIGKILL, while the authority keeps the runner waiting; another process recovers."""
    tsa.answer = lambda query: time.sleep(3) or (503, b"")
    environ = {
        **command_environment(platform),
        "LIBSAFE_NB_HOME": str(settings.home),
        "LIBSAFE_SIGN_KEY": str(settings.sign_key),
        "LIBSAFE_TSA_URL": tsa.url,
    }
    command = [sys.executable, "-m", "libsafe_nb", "run", str(notebook("1")), "--container", container]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not tsa.queries and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    tsa.answer = None

    (run,) = (each.name for each in (settings.home / "runs").iterdir())
    command = [sys.executable, "-m", "libsafe_nb", "recover", run, "--json"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert len(versions(connection, container)) == 3
    assert verify().exit_code == 0
