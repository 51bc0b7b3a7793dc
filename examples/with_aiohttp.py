"""aiohttp on rloop: give run_app() a loop.

Run `python examples/with_aiohttp.py [PORT]` and then `curl http://127.0.0.1:8080/world`.
"""

import sys

from aiohttp import web

import rloop


async def hello(request):
    return web.Response(text=f"Hello, {request.match_info['name']}!\n")


app = web.Application()
app.router.add_get("/{name}", hello)

if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
    web.run_app(app, host="127.0.0.1", port=port, loop=rloop.new_event_loop())
