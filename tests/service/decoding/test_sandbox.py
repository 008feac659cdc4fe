"""System calls that a compromised decoding process can make."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Literal

import httpx
import pytest

from service.classification.upload_fields import InputFiles
from service.decoding import sandbox, syscalls
from service.decoding.pool import DecodeLimits
from service.decoding.sandbox import Layers
from service.errors import Error
from service.settings import MIB
from tests.conftest import ROOT
from tests.service.decoding.test_pool import good, problem, run, started
from tests.service.process import Serve
from tests.service.running_server import wait_until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's"),
    pytest.mark.slow,
]

#: Users that run a service: the one that runs the tests; root of a container without capabilities;
#: and a user, as in the image.
IDENTITIES = ("as-is", "no-capabilities", "10001")

#: Outcomes of a refused call: an error of the filter, or the end of the caller.
REFUSED = {"EPERM", "ENOSYS", "SIGSYS", "SIGSEGV", "absent"}

#: Calls that reach another process, its memory or its limits, and that a kernel may refuse a
#: process of another user.
HARMING = {
    "kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal",
    "prlimit64, to end it", "prlimit64, to read it", "get_robust_list", "pidfd_getfd",
    "ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "move_pages",
    "setpriority", "ioprio_set", "sched_setaffinity", "sched_setscheduler",
    "prlimit64, more memory for itself",
}  # fmt: skip

#: Calls that work without a sandbox on any machine, so that their refusal is the sandbox's.
WORKING = {
    "kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo",
    "fcntl F_SETOWN", "fcntl F_SETSIG", "fcntl O_ASYNC", "ioctl FIOSETOWN",
    "prlimit64, to end it", "prlimit64, to read it", "get_robust_list",
    "setpriority", "getpriority", "sched_setaffinity", "sched_getaffinity", "sched_getscheduler",
    "clock_gettime", "getpgid", "getsid",
    "openat", "openat, to write", "newfstatat", "newfstatat AT_EMPTY_PATH", "statx", "faccessat",
    "readlinkat", "unlinkat", "renameat2", "truncate", "mkdirat", "chdir",
    "socket, IPv4", "socket, Unix", "socketpair", "sendto an address", "connect",
    "sendmsg with a descriptor", "memfd_create", "pipe2", "epoll_create1",
    "execve", "fork", "prctl", "prlimit64, more memory for itself",
}  # fmt: skip

#: Calls that the fork server may make: end a process, fork, read files, and give up rights.
FORKING_MAY = {
    "kill", "tgkill", "tgkill, nothing sent", "fork", "pipe2",
    "openat", "newfstatat", "newfstatat AT_EMPTY_PATH",
    "prctl", "seccomp", "unshare", "setresuid", "prlimit64, more memory for itself",
}  # fmt: skip

needs_seccomp = pytest.mark.skipif(syscalls.library() is None, reason="libseccomp is not installed")


def captured(identity: str, *arguments: str) -> str:
    """Return the output of `tests.service.captured`."""
    if identity != "as-is" and os.geteuid():
        pytest.skip("only root can change its user")
    program = subprocess.run(
        [sys.executable, "-m", "tests.service.captured", identity, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    assert program.returncode == 0, program.stderr
    return program.stdout


def outcomes(identity: str, *kinds: str) -> dict[str, dict[str, str]]:
    """Return the outcome of each call, by the kind of the process and the name of the call."""
    results: dict[str, dict[str, str]] = json.loads(captured(identity, *kinds))
    return {kind: {name: results[name][kind] for name in results} for kind in kinds}


@needs_seccomp
@pytest.mark.parametrize("identity", IDENTITIES)
def test_no_call_of_a_decoding_process_reaches_another_process_a_file_or_a_socket(
    identity: str,
) -> None:
    results = outcomes(identity, "free", "confined")
    assert {name for name, result in results["free"].items() if result == "worked"} >= WORKING
    assert passed(results["confined"]) == {}


@needs_seccomp
def test_the_fork_server_can_only_fork_kill_and_read() -> None:
    working = passed(outcomes("as-is", "forking")["forking"]).keys()
    assert working <= FORKING_MAY
    assert working >= {"kill", "fork", "openat"}


def passed(results: dict[str, str]) -> dict[str, str]:
    """The calls that were not refused."""
    return {name: result for name, result in results.items() if result not in REFUSED}


def root_can_change_users() -> bool:
    """Whether this process may become any user, and signal all."""
    if os.geteuid():
        return False
    capabilities = Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0]
    users = Path("/proc/self/uid_map").read_text().split()
    return int(capabilities, 16) & 0xE0 == 0xE0 and users == ["0", "0", str(2**32 - 1)]


def user_can_have_a_namespace(user: int) -> bool:
    """Whether a process of that user may have a user namespace."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--user", "true"]
    return subprocess.run(command, capture_output=True, user=user).returncode == 0


@needs_seccomp
@pytest.mark.parametrize("identity", ["as-is", "10001"])
def test_threads_are_limited_where_the_kernel_counts_those_of_a_process(identity: str) -> None:
    threads = int(captured(identity, "threads"))
    if os.geteuid() == 0 and identity == "as-is":
        countable = root_can_change_users()
    else:
        countable = user_can_have_a_namespace(os.geteuid() or int(identity))
    if not countable:
        pytest.skip("neither a user id nor a user namespace of its own is to be had here")
    assert 16 < threads <= sandbox._MAX_THREADS, "it tries more"


@needs_seccomp
def test_a_process_of_root_cannot_harm_others_where_there_is_no_seccomp() -> None:
    if not root_can_change_users():
        pytest.skip("only root can give a process a user of its own")
    results = outcomes("as-is", "without-seccomp")["without-seccomp"]
    assert {name for name in HARMING if results[name] == "worked"} == set()
    assert results["socket, IPv4"] == "worked", "seccomp was there"


def test_a_confined_process_keeps_what_decoding_needs() -> None:
    script = textwrap.dedent(
        """
        import os, resource, socket, sys, threading, time
        from service.decoding import sandbox
        ours, theirs = socket.socketpair()
        sandbox.confine(64 << 20)
        for seconds in (5, 10, 5):
            sandbox.limit_cpu(seconds)
            assert resource.getrlimit(resource.RLIMIT_CPU)[0] <= seconds + 3
        ours.sendall(b"x")
        assert theirs.recv(1) == b"x"
        ran = threading.Event()
        thread = threading.Thread(target=ran.set)
        thread.start()
        thread.join()
        assert ran.is_set()
        time.sleep(0.001)
        time.monotonic(), time.process_time(), time.thread_time()
        os.urandom(8), os.sched_getaffinity(0)
        bytearray(8 << 20)
        os.abort()
        """
    )
    program = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert program.returncode == -signal.SIGABRT, program.stderr


@needs_seccomp
def test_every_allowed_call_exists_on_64_bit_arm_or_is_replaced_there_by_an_allowed_one() -> None:
    import pyseccomp

    #: Calls that 64-bit ARM never had, and the allowed ones that its C library takes instead.
    replaced = {
        "poll": "ppoll", "select": "pselect6", "time": "clock_gettime",
        "fork": "clone", "dup2": "dup3",
    }  # fmt: skip

    def exists(name: str) -> bool:
        return int(pyseccomp.resolve_syscall(pyseccomp.Arch.AARCH64, name)) >= 0

    for rules in (syscalls.decoding_rules(1), syscalls.forking_rules()):
        allowed = {rule.name for rule in rules}
        missing = {name for name in allowed if not exists(name)}
        assert missing <= replaced.keys()
        assert {replaced[name] for name in missing} <= allowed
        assert all(exists(replaced[name]) for name in missing)


@pytest.fixture
def no_libseccomp(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python that finds none."""
    (tmp_path / "pyseccomp.py").write_text("raise RuntimeError('Unable to find libseccomp')\n")
    return {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}


@pytest.mark.parametrize("setting", ["auto", "required"])
def test_files_are_read_without_seccomp_unless_it_is_required(
    setting: Literal["auto", "required"],
    clip: bytes,
    no_libseccomp: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in no_libseccomp.items():
        monkeypatch.setenv(name, value)
    with started(DecodeLimits(60, 1024 * MIB, setting)) as decoders:
        (result,) = run(decoders, InputFiles(clip=clip))
        if setting == "required":
            assert problem(result).error is Error.NOT_READY
            assert decoders.sandbox_layers is None
        else:
            good(result)
            assert decoders.sandbox_layers is not None
            assert Layers.SECCOMP not in decoders.sandbox_layers
            assert "confined by limits, no_new_privs" in caplog.text


def test_a_service_that_requires_seccomp_does_not_start_without_it(
    serve: type[Serve], weights: Path, no_libseccomp: dict[str, str]
) -> None:
    service = serve("--models", weights, "--port", 0, "--sandbox", "required", **no_libseccomp)
    assert service.code() == 1
    assert "SCMRL_SANDBOX=required needs Linux with seccomp" in service.logged
    assert "Traceback" not in service.logged
    assert not service.shown


@needs_seccomp
def test_the_log_and_readyz_name_the_sandbox_layers(serve: type[Serve], weights: Path) -> None:
    service = serve(SCMRL_MODELS=str(weights), SCMRL_PORT="0", SCMRL_SANDBOX="required")
    address = service.address()
    wait_until(lambda: "decoding processes are confined by" in service.logged)
    layers = httpx.get(f"{address}/readyz").json()["sandbox"]
    assert {"limits", "no_new_privs", "seccomp"} <= set(layers)
    assert f"confined by {', '.join(layers)}" in service.logged
    assert service.stop() == 0
