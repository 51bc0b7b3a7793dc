"""Children that outlive their loop: nothing is left of them once they have exited, though no other child is started and
nothing is collected. And `wait()`, which waits for the child alone.
"""

import asyncio
import os
import sys

import pytest

from support.children import PIPE, shell

PRELUDE = """
    import asyncio.subprocess, gc, os, time
    from support.children import has_children
    gc.disable()
    count = 12

    def all_reaped():
        deadline = time.monotonic() + 10
        while has_children():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True
"""


def run(child, source):
    result = child(PRELUDE + source)
    assert result.returncode == 0, result.stderr
    return result.stdout.split(), result.stderr


def skip_asyncio(loop_name):
    if loop_name == "asyncio" and sys.version_info >= (3, 12):
        pytest.skip("asyncio's pidfds are forgotten with the loop")


def test_outlive_the_loop(child, loop_name):
    skip_asyncio(loop_name)
    lines, _ = run(
        child,
        """
    async def main():
        command = "read line; exit 3"
        return [await asyncio.create_subprocess_shell(command, stdin=reader) for _ in range(count)]

    reader, writer = os.pipe()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        children = runner.run(main())
    os.close(reader)
    os.close(writer)
    print(all_reaped())
    """,
    )
    assert lines == ["True"]


def test_outlive_a_cancelled_communicate(child, loop_name):
    skip_asyncio(loop_name)
    lines, _ = run(
        child,
        """
    async def main():
        async def one():
            process = await asyncio.create_subprocess_shell("exec sleep 0.3", stdout=asyncio.subprocess.PIPE)
            try:
                await asyncio.wait_for(process.communicate(), 0.05)
            except asyncio.TimeoutError:
                return
        await asyncio.gather(*[one() for _ in range(count)])

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
    print(all_reaped())
    """,
    )
    assert lines == ["True"]


def test_outlive_the_process(child):
    """Waiting for children does not keep the interpreter alive. This child ends when the interpreter has ended."""
    _, errors = run(
        child,
        """
    async def main():
        silent = asyncio.subprocess.DEVNULL
        return await asyncio.create_subprocess_shell("read line", stdin=reader, stdout=silent, stderr=silent)

    reader, writer = os.pipe()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        process = runner.run(main())
    os.close(reader)
    """,
    )
    assert "Traceback" not in errors


async def test_wait_is_for_the_child_alone():
    """Before 3.14 asyncio also waits until every process that has inherited a pipe closes it."""
    if sys.version_info < (3, 14) and type(asyncio.get_running_loop()).__module__.startswith("asyncio."):
        pytest.skip("waits for the grandchild")
    process = await asyncio.create_subprocess_exec(
        *shell("sleep 20 & echo $!; read line; exit 5"), stdin=PIPE, stdout=PIPE
    )
    grandchild = int(await process.stdout.readline())
    try:
        waiting = asyncio.create_task(process.wait())
        await asyncio.sleep(0)
        process.stdin.write(b"go on\n")
        assert await asyncio.wait_for(waiting, 10) == 5
        assert process.returncode == 5
    finally:
        os.kill(grandchild, 9)
    assert await process.stdout.read() == b""
    process.stdin.close()
