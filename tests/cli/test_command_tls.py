"""The servers in TLS, with clients that others have written."""

from __future__ import annotations

import contextlib
import hashlib
import random
import shutil
import signal
import ssl
import subprocess

import pytest
from certificates import AUTHORITY, SERVER, client_context
from command import PATIENCE, PROGRAM, Served, everything, received, run
from platforms import WINDOWS

pytest.importorskip("h11", reason="serve files needs h11")

needs_signals = pytest.mark.skipif(WINDOWS, reason="Windows stops a process only through a console that it shares")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here")

TLS = ("--tls", *map(str, SERVER))
LARGE = random.Random(7).randbytes(9 * 1024 * 1024 + 5)
SMALL = b"a small file\n"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("files")
    (directory / "small.txt").write_bytes(SMALL)
    (directory / "large").write_bytes(LARGE)
    (directory / "empty").touch()
    return directory


@pytest.fixture(scope="module")
def served(directory):
    with Served("files", str(directory), *TLS, "--threads", "2", seconds=20 * PROGRAM) as server:
        yield server
        server.ends_in_order()


@contextlib.contextmanager
def connected(served):
    with (
        served.connect() as plain,
        client_context().wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as client,
    ):
        yield client


def curl(served, target, *options):
    command = ["curl", "-sSf", "--cacert", str(AUTHORITY), *options, f"https://{served.host}:{served.port}{target}"]
    return subprocess.run(command, capture_output=True, check=True, timeout=PROGRAM).stdout


@needs_curl
def test_curl_gets_the_same_bytes(served):
    assert curl(served, "/small.txt") == SMALL
    assert curl(served, "/empty") == b""
    assert curl(served, "/large") == LARGE
    assert curl(served, "/large", "--range", "1000000-9000000") == LARGE[1_000_000:9_000_001]
    assert b"small.txt" in curl(served, "/")


@needs_curl
def test_several_requests_of_one_connection(served):
    command = ["curl", "-sSfv", "--cacert", str(AUTHORITY)]
    for target in ("/small.txt", "/large", "/small.txt"):
        command += ["-o", "-", f"https://{served.host}:{served.port}{target}"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=PROGRAM)
    assert done.stdout == SMALL + LARGE + SMALL
    assert done.stderr.count(b"SSL connection using") == 1


@needs_openssl
def test_openssl_gets_an_echo():
    with Served("echo", *TLS) as served:
        command = ["openssl", "s_client", "-quiet", "-no_ign_eof", "-verify_return_error", "-CAfile", str(AUTHORITY)]
        command += ["-connect", f"{served.host}:{served.port}"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
            client.stdin.write(b"hello\n")
            client.stdin.flush()
            assert client.stdout.readline() == b"hello\n"
            client.stdin.close()
            client.wait(PATIENCE)
        served.ends_in_order()


def test_what_is_echoed_is_what_was_sent_and_the_end_is_told():
    message = random.Random(3).randbytes(300_000)
    with Served("echo", *TLS, "--threads", "2") as served:
        with connected(served) as client:
            for size in (1, 100, 20_000, 60_000):
                client.sendall(message[:size])
                assert received(client, size) == message[:size]
            client.unwrap().close()  # which waits for the server's close_notify
        served.ends_in_order()


def test_who_speaks_no_tls_and_who_breaks_off_harm_no_other(served):
    with served.connect() as client:
        client.sendall(b"GET /small.txt HTTP/1.1\r\nHost: here\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP" not in everything(client)
    with served.connect() as client:
        client.sendall(b"\x16\x03\x01")
    with pytest.raises(ssl.SSLCertVerificationError), served.connect() as client:
        client_context(trusts=False).wrap_socket(client, server_hostname="localhost")
    with connected(served) as client:
        client.sendall(b"GET /small.txt HTTP/1.0\r\n\r\n")
        assert everything(client).endswith(SMALL)


@needs_signals
def test_a_download_in_flight_is_finished(directory):
    with Served("files", str(directory), *TLS, "--grace", "20") as served:
        with connected(served) as client, served.connect() as silent:
            client.sendall(b"GET /large HTTP/1.1\r\nHost: here\r\n\r\n")
            begin = received(client, 1000)
            served.signal(signal.SIGTERM)
            assert served.has_stopped_accepting()
            _, _, body = (begin + everything(client)).partition(b"\r\n\r\n")
            silent.close()  # it has never begun
        assert hashlib.sha256(body).digest() == hashlib.sha256(LARGE).digest()
        assert served.exit_status() == 0
        assert served.stderr == ""


@needs_signals
def test_an_idle_client_is_let_go_at_the_end():
    with Served("echo", *TLS, "--grace", "20") as served, connected(served) as client:
        client.sendall(b"hello")
        assert received(client, 5) == b"hello"
        served.signal(signal.SIGTERM)
        assert client.recv(1) == b""  # an end that was told, or it would raise
        client.unwrap().close()
        assert served.exit_status() == 0


@pytest.mark.parametrize(
    ("certificate", "key", "problem"),
    [
        ("nowhere.pem", SERVER[1], "can't read 'nowhere.pem': No such file or directory"),
        (SERVER[0], "nowhere.key", "can't read 'nowhere.key': No such file or directory"),
        (SERVER[1], SERVER[1], "are no certificate and its key, in PEM"),
        (SERVER[0], SERVER[0], "are no certificate and its key, in PEM"),
        (AUTHORITY, SERVER[1], "are no certificate and its key, in PEM"),
    ],
)
@pytest.mark.parametrize("server", [["echo"], ["files", "."]], ids=["echo", "files"])
def test_what_is_no_certificate_and_key_is_said_in_a_line(server, certificate, key, problem):
    done = run("serve", *server, "--tls", str(certificate), str(key), "--port", "0")
    assert done.returncode == 2
    assert done.stdout == ""
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1


@needs_openssl
def test_a_key_with_a_password_is_said_to_have_one(tmp_path):
    key = tmp_path / "encrypted.key"
    command = ["openssl", "pkey", "-in", str(SERVER[1]), "-aes256", "-passout", "pass:secret", "-out", str(key)]
    subprocess.run(command, check=True, timeout=PROGRAM)
    done = run("serve", "echo", "--tls", str(SERVER[0]), str(key), "--port", "0")
    assert done.returncode == 2
    assert "the key is encrypted" in done.stderr
    assert done.stderr.count("\n") == 1


def test_it_takes_both_a_certificate_and_a_key():
    done = run("serve", "echo", "--tls", str(SERVER[0]))
    assert done.returncode == 2
    assert "--tls" in done.stderr
