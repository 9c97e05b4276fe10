"""A real IMAP server for tests: Dovecot on loopback ports, with TLS, in a folder of its own.

`dovecot` (from the Debian package dovecot-imapd) is started in the foreground as the present user;
as root it hands the mail to `nobody`, for Dovecot refuses to touch mail as root.
"""

from __future__ import annotations

import base64
import contextlib
import grp
import hashlib
import hmac
import json
import os
import pwd
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from components import require
from imapclient import IMAPClient

USER = "reader"
PASSWORD = "correct horse"
TOKEN_KEY = b"a key that signs the tokens of these tests"


@dataclass(frozen=True)
class Dovecot:
    """A running server, and the one mailbox in it."""

    host: str
    imap_port: int
    imaps_port: int
    ca: Path
    folder: Path

    def url(self, folder: str = "", *, user: str = USER, port: int | None = None) -> str:
        return f"imaps://{user}@{self.host}:{port or self.imaps_port}/{folder}"

    def client(self) -> IMAPClient:
        """A session of its own, to put mail there and to look at it."""
        client = IMAPClient(self.host, self.imap_port, ssl=False)
        client.login(USER, PASSWORD)
        return client

    def empty(self) -> None:
        """Remove all folders and all mail."""
        with contextlib.closing(_Session(self.client())) as session:
            for flags, _, name in session.client.list_folders():
                if name != "INBOX" and b"\\Noselect" not in flags:
                    session.client.delete_folder(name)
            session.client.select_folder("INBOX")
            uids = session.client.search("ALL")
            if uids:
                session.client.delete_messages(uids)
                session.client.expunge()


@dataclass
class _Session:
    client: IMAPClient

    def close(self) -> None:
        self.client.logout()


def token(user: str = USER) -> str:
    """An OAuth 2 token (a signed JWT) that the server takes for that user."""
    parts = [{"alg": "HS256", "typ": "JWT", "kid": "test"}, {"sub": user, "exp": 4_000_000_000, "iat": 1_500_000_000}]
    signed = b".".join(_base64(json.dumps(part).encode()) for part in parts)
    return (signed + b"." + _base64(hmac.digest(TOKEN_KEY, signed, hashlib.sha256))).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


_CONFIG = """
base_dir = {root}/run
state_dir = {root}/state
log_path = {root}/dovecot.log
protocols = imap
listen = 127.0.0.1
ssl = yes
ssl_cert = <{root}/cert.pem
ssl_key = <{root}/key.pem
disable_plaintext_auth = no
auth_failure_delay = 0 secs
auth_mechanisms = plain xoauth2 oauthbearer
default_internal_user = {internal}
default_internal_group = {internal_group}
default_login_user = {login}
first_valid_uid = 1
first_valid_gid = 1
mail_location = maildir:{root}/mail/%u
mail_max_userip_connections = 50
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {imap_port}
  }}
  inet_listener imaps {{
    port = {imaps_port}
    ssl = yes
  }}
}}
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
passdb {{
  driver = passwd-file
  args = {root}/users
}}
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {root}/oauth2.conf
}}
userdb {{
  driver = static
  args = uid={mail_user} gid={mail_group} home={root}/mail/%u
}}
namespace inbox {{
  inbox = yes
  separator = /
}}
"""
_OAUTH2 = """
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={root}/keys/
username_attribute = sub
"""


@pytest.fixture(scope="session")
def dovecot_server() -> Iterator[Dovecot]:
    """The server, started once for all tests of a process."""
    binary = shutil.which("dovecot", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    require(binary, "no Dovecot: the Debian package dovecot-imapd is not installed")
    require(shutil.which("openssl"), "no openssl: Dovecot's certificate cannot be made")
    root = Path(tempfile.mkdtemp(prefix="refrain-dovecot-"))
    try:
        server = _configure(root)
        process = subprocess.Popen([str(binary), "-F", "-c", str(root / "dovecot.conf")], stderr=subprocess.PIPE)
        try:
            _wait(server, process)
            yield server
        finally:
            process.terminate()
            process.wait(timeout=20)
            assert process.stderr is not None
            process.stderr.close()
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def dovecot(dovecot_server: Dovecot) -> Dovecot:
    """The server with no mail in it."""
    dovecot_server.empty()
    return dovecot_server


def _configure(root: Path) -> Dovecot:
    root.chmod(0o755)
    me = pwd.getpwuid(os.getuid()).pw_name
    my_group = grp.getgrgid(os.getgid()).gr_name
    mail = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    (root / "mail").mkdir()
    (root / "state").mkdir()
    os.chown(root / "mail", mail.pw_uid, mail.pw_gid)
    imap_port, imaps_port = _free_ports(2)
    as_root = os.getuid() == 0
    (root / "dovecot.conf").write_text(
        _CONFIG.format(
            root=root,
            internal="dovecot" if as_root else me,
            internal_group="dovecot" if as_root else my_group,
            login="dovenull" if as_root else me,
            mail_user=mail.pw_uid,
            mail_group=mail.pw_gid,
            imap_port=imap_port,
            imaps_port=imaps_port,
        )
    )
    (root / "users").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
    (root / "oauth2.conf").write_text(_OAUTH2.format(root=root))
    keys = root / "keys" / "default" / "HS256"
    keys.mkdir(parents=True)
    (keys / "test").write_bytes(base64.b64encode(TOKEN_KEY))
    _make_certificate(root)
    return Dovecot("127.0.0.1", imap_port, imaps_port, root / "cert.pem", root)


def _make_certificate(root: Path) -> None:
    files = ["-keyout", str(root / "key.pem"), "-out", str(root / "cert.pem")]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files]
    subprocess.run(command, check=True, capture_output=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


def _wait(server: Dovecot, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            server.client().logout()
        except OSError:
            pass
        else:
            return
        if process.poll() is not None or time.monotonic() > deadline:
            log = server.folder / "dovecot.log"
            assert process.stderr is not None
            detail = process.stderr.read().decode() if process.poll() is not None else "no answer in 20 s"
            pytest.fail(f"Dovecot does not start: {detail}\n{log.read_text() if log.exists() else ''}")
        time.sleep(0.05)


# ---- a connection that breaks


@contextlib.contextmanager
def cut_after(port: int, num_bytes: int, *, reset: bool = False) -> Iterator[int]:
    """A port that passes on to another until the server has sent so many bytes; then both ends are closed, or reset."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        client, _ = listener.accept()
        server = socket.create_connection(("127.0.0.1", port))
        threading.Thread(target=_pass_on, args=(client, server, None), daemon=True).start()
        _pass_on(server, client, num_bytes)
        for end in (server, client):
            if reset:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with contextlib.suppress(OSError):
                # The other thread waits in recv, and holds the connection open until it is woken.
                end.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
            end.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.close()
    thread.join(timeout=10)


def _pass_on(source: socket.socket, target: socket.socket, limit: int | None) -> None:
    passed = 0
    with contextlib.suppress(OSError):
        while (data := source.recv(4096)) and (limit is None or passed < limit):
            target.sendall(data)
            passed += len(data)
