"""libfaketime: a library in `LD_PRELOAD` that makes time pass faster for a program that knows nothing of it."""

import glob
import json
import sys

import pytest

# Debian's place, and that of others.
PLACES = ["/usr/lib/*/faketime", "/usr/lib*/faketime", "/usr/local/lib/faketime"]
LIBRARIES = [path for place in PLACES for path in glob.glob(f"{place}/libfaketime.so.1")]


@pytest.mark.skipif(not LIBRARIES, reason="libfaketime is not installed (Debian: apt-get install libfaketime)")
@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is Linux's")
def test_time_ten_times_as_fast(child):
    result = child(
        """
        import json, time

        async def main():
            loop = asyncio.get_running_loop()
            times = loop.time(), time.monotonic()
            await asyncio.sleep(5)
            fired = loop.create_future()
            loop.call_later(5, fired.set_result, None)
            await fired
            return loop.time() - times[0], time.monotonic() - times[1]

        loop = new_event_loop()
        print(json.dumps(loop.run_until_complete(main())))
        loop.close()
        """,
        LD_PRELOAD=LIBRARIES[0],
        FAKETIME="+0 x10",
    )
    assert result.returncode == 0, result.stderr
    by_loop, by_clock = json.loads(result.stdout)
    # A loop that waited by the true clock would take ten seconds of it, which are a hundred of these.
    assert 10 <= by_loop < 100
    assert by_loop == pytest.approx(by_clock, abs=1)
