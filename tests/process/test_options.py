"""How a child is started: the program, every keyword that is passed on, and what is refused.

Talking to it is in test_pipes.py, its end in test_exit.py.
"""

import asyncio
import fcntl
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from support.children import DEVNULL, PIPE, STDOUT, Recorder, python, run, shell, start
from support.loops import open_files

pytestmark = pytest.mark.usefixtures("no_child_left")


def may_set_groups():
    """Whether this process is root, and not only in a user namespace, where the kernel may forbid setgroups(2)."""
    setgroups = pathlib.Path("/proc/self/setgroups")
    return os.getuid() == 0 and (not setgroups.exists() or setgroups.read_text() == "allow\n")


# --- programs ---


async def test_exec():
    assert await run(["/bin/echo", "some", "words"]) == (0, b"some words\n", b"")


async def test_program_is_searched():
    assert await run(["echo", b"bytes", os.fspath("text")]) == (0, b"bytes text\n", b"")


@pytest.mark.parametrize("command", ["echo $((6 * 7))", b"echo 42"])
async def test_shell(command):
    process = await asyncio.create_subprocess_shell(command, stdout=PIPE)
    assert await process.communicate() == (b"42\n", None)  # type: ignore[comparison-overlap]
    assert process.returncode == 0


async def test_subprocess_shell_with_a_protocol():
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.subprocess_shell(Recorder, "cat; echo error >&2; exit 3")
    transport.get_pipe_transport(0).write(b"input")
    transport.get_pipe_transport(0).close()
    await protocol.lost
    assert protocol.data == {1: b"input", 2: b"error\n"}
    assert transport.get_returncode() == 3
    transport.close()


@pytest.mark.parametrize(
    ("args", "kwargs", "error"),
    [
        (["/no/such/program"], {}, FileNotFoundError),
        (["/etc/passwd"], {}, PermissionError),
        (["/bin/true"], {"cwd": "/no/such/folder"}, FileNotFoundError),
        (["/bin/true"], {"executable": "/no/such/program"}, FileNotFoundError),
        (["nul\0byte"], {}, ValueError),
        ([42], {}, TypeError),
        (["/bin/true"], {"stdout": 987654}, OSError),
        (["/bin/true"], {"stdin": object()}, AttributeError),
        (["/bin/true"], {"no_such_keyword": 1}, TypeError),
        (["/bin/true"], {"cwd": "nul\0byte"}, ValueError),
    ],
    ids=str,
)
async def test_what_cannot_be_started(args, kwargs, error):
    """A program that cannot be started raises what Popen raises, and nothing is left behind."""
    with pytest.raises(error) as expected:
        subprocess.Popen(args, **kwargs)
    with pytest.raises(error) as info:
        await start(args, **kwargs)
    assert type(info.value) is type(expected.value)
    assert str(info.value) == str(expected.value)


# --- what asyncio refuses ---


@pytest.mark.parametrize(
    ("keyword", "value", "text"),
    [
        ("universal_newlines", True, "universal_newlines must be False"),
        ("bufsize", 4096, "bufsize must be 0"),
        ("text", True, "text must be False"),
        ("encoding", "utf-8", "encoding must be None"),
        ("errors", "strict", "errors must be None"),
    ],
)
async def test_refused_keywords(keyword, value, text):
    loop = asyncio.get_running_loop()
    with pytest.raises(ValueError) as info:
        await loop.subprocess_exec(Recorder, "/bin/true", **{keyword: value})
    assert str(info.value) == text
    with pytest.raises(ValueError) as info:
        await loop.subprocess_shell(Recorder, "true", **{keyword: value})
    assert str(info.value) == text


async def test_refused_shells():
    loop = asyncio.get_running_loop()
    with pytest.raises(ValueError, match="^shell must be False$"):
        await loop.subprocess_exec(Recorder, "/bin/true", shell=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^shell must be True$"):
        await loop.subprocess_shell(Recorder, "true", shell=False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^cmd must be a string$"):
        await loop.subprocess_shell(Recorder, ["true"])  # type: ignore[arg-type]


# --- where the three go ---


async def test_inherited(capfd):
    process = await asyncio.create_subprocess_exec(*shell("echo out; echo error >&2"))
    assert await process.wait() == 0
    assert (process.stdin, process.stdout, process.stderr) == (None, None, None)
    assert capfd.readouterr() == ("out\n", "error\n")


async def test_nowhere():
    code, out, err = await run(shell("read x; echo $?; echo error >&2"), stderr=DEVNULL)
    assert (code, out, err) == (0, b"1\n", None)
    assert await run(["/bin/echo"], stdout=DEVNULL) == (0, None, b"")


async def test_one_pipe_for_both():
    assert await run(shell("echo out; echo error >&2; echo more"), stderr=STDOUT) == (
        0,
        b"out\nerror\nmore\n",
        None,
    )


async def test_files_and_numbers(tmp_path):
    (tmp_path / "in").write_bytes(b"from a file")
    with open(tmp_path / "in") as source, open(tmp_path / "out", "w") as target:
        code, out, err = await run(["cat"], stdin=source, stdout=target.fileno())
        assert not source.closed and not target.closed
    assert (code, out, err) == (0, None, b"")
    assert (tmp_path / "out").read_bytes() == b"from a file"


async def test_socket_as_stdin():
    near, far = socket.socketpair()
    with near, far:
        process = await asyncio.create_subprocess_exec("cat", stdin=far, stdout=PIPE)  # type: ignore[arg-type]
        far.close()
        near.sendall(b"over a socket")
        near.shutdown(socket.SHUT_WR)
        assert await process.communicate() == (b"over a socket", None)  # type: ignore[comparison-overlap]
        assert await process.wait() == 0


@pytest.mark.parametrize("fd", [0, 1, 2])
async def test_pipes_are_pipes(fd):
    code, out, err = await run(python(f"import os, stat; print(stat.S_ISFIFO(os.fstat({fd}).st_mode))"), stdin=PIPE)
    assert (code, out.strip(), err) == (0, b"True", b"")


# --- keywords of Popen ---


async def test_cwd(tmp_path):
    for cwd in tmp_path, str(tmp_path), os.fsencode(tmp_path):
        assert await run(["pwd", "-P"], cwd=cwd) == (0, os.fsencode(tmp_path.resolve()) + b"\n", b"")


async def test_env():
    assert await run(["/usr/bin/env"], env={"ONLY": "this"}) == (0, b"ONLY=this\n", b"")


async def test_executable():
    assert await run(["called so", "-c", "echo $0"], executable="/bin/sh") == (0, b"called so\n", b"")


async def test_umask():
    assert await run(shell("umask"), umask=0o027) == (0, b"0027\n", b"")


async def test_start_new_session():
    code, out, _ = await run(python("import os; print(os.getsid(0) == os.getpid())"), start_new_session=True)
    assert (code, out) == (0, b"True\n")


async def test_process_group():
    code, out, _ = await run(python("import os; print(os.getpgid(0) == os.getpid())"), process_group=0)
    assert (code, out) == (0, b"True\n")


@pytest.mark.skipif(not may_set_groups(), reason="needs to be root, and allowed to set groups")
async def test_user_and_groups():
    # A program that every user may run.
    code, out, err = await run(shell("id -u; id -g; id -G"), user=65534, group=65533, extra_groups=[65533, 65532])
    assert (code, err) == (0, b"")
    uid, gid, groups = out.split(b"\n")[:3]
    assert (uid, gid, set(groups.split())) == (b"65534", b"65533", {b"65533", b"65532"})


async def test_pass_fds():
    reader, writer = os.pipe()
    try:
        assert await run(python(f"import os; os.write({writer}, b'passed')"), pass_fds=[writer]) == (
            0,
            b"",
            b"",
        )
        assert os.read(reader, 100) == b"passed"
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("close_fds", [True, False])
async def test_close_fds(close_fds):
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        source = f"import os\ntry: os.fstat({writer})\nexcept OSError: print('closed')\nelse: print('open')"
        code, out, _ = await run(python(source), close_fds=close_fds)
        assert (code, out.strip()) == (0, b"closed" if close_fds else b"open")
    finally:
        os.close(reader)
        os.close(writer)


async def test_nothing_of_the_loop_is_inherited():
    """A child inherits neither the loop's own files nor the pipes of other children."""
    other, protocol = await start(["cat"])
    kept = {fd for fd, _ in open_files() if os.get_inheritable(fd)}
    source = "import os; print(*(fd for fd in range(3, 1000) if os.path.exists(f'/proc/self/fd/{fd}')))"
    code, out, _ = await run(python(source), close_fds=False)
    assert (code, set(map(int, out.split()))) == (0, kept - {0, 1, 2})
    other.get_pipe_transport(0).close()
    await protocol.lost
    other.close()


# Popen warns of threads when it has to fork.
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
async def test_preexec_fn():
    def before():
        os.write(1, b"before ")

    assert await run(["/bin/echo", "after"], preexec_fn=before) == (0, b"before after\n", b"")


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
async def test_preexec_fn_that_raises():
    def before():
        raise ZeroDivisionError

    with pytest.raises(subprocess.SubprocessError, match="Exception occurred in preexec_fn."):
        await start(["/bin/true"], preexec_fn=before)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")
async def test_pipesize():
    transport, protocol = await start(["cat"], pipesize=8192)
    for fd in 0, 1, 2:
        pipe = transport.get_pipe_transport(fd).get_extra_info("pipe")
        assert fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) == 8192
    transport.get_pipe_transport(0).close()
    await protocol.lost
    transport.close()


@pytest.mark.parametrize("restore", [True, False])
async def test_restore_signals(restore):
    # Python ignores SIGPIPE, and so does its child, unless the child restores it.
    code, out, _ = await run(shell("grep SigIgn /proc/self/status"), restore_signals=restore)
    ignored = int(out.split()[1], 16) & 1 << signal.SIGPIPE - 1
    assert (code, bool(ignored)) == (0, not restore)


# --- programs that watch the loop ---


async def test_debug_log(caplog):
    caplog.set_level("DEBUG", "asyncio")
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    # Starting a process may take longer than 0.1 s, which would be logged as slow.
    loop.slow_callback_duration = 10
    try:
        transport, protocol = await start(["cat"], stderr=STDOUT)
        pid = transport.get_pid()
        transport.get_pipe_transport(0).close()
        await protocol.lost
    finally:
        loop.set_debug(False)
    transport.close()
    for part in (
        "execute program 'cat' stdin=<pipe> stdout=stderr=<pipe>",
        f"process 'cat' created: pid {pid}",
        "Write pipe ",
        "Read pipe ",
        f"pid={pid} running",
        "exited with return code 0",
    ):
        assert part in caplog.text


async def test_task_factory_and_context():
    """Starting a process works with any task factory."""
    loop = asyncio.get_running_loop()
    made = []

    def factory(loop, coro, **kwargs):
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **kwargs)

    loop.set_task_factory(factory)
    try:
        assert await run(["/bin/echo", "x"]) == (0, b"x\n", b"")
    finally:
        loop.set_task_factory(None)
    assert made
