"""What every HTTP server of ours stands behind: who may ask, from where, how much, and for how long.

    app = Starlette(routes=[...])
    guard = Guard(app, token=new_token())                    # an API: Authorization: Bearer only
    guard = Guard(app, token=new_token(), pages=True)        # a page: once as ?token=..., then a cookie
    serve(guard, "127.0.0.1", 8000, ready=print)             # until Ctrl-C or SIGTERM

A handler finds the request's JSON, already read and bounded, with `request_json(request.scope)`. A page sets its own
Content-Security-Policy with `content_policy(html)`; every other answer gets one that allows nothing.
"""

from .guard import LOOPBACK_HOSTS as LOOPBACK_HOSTS
from .guard import Guard as Guard
from .guard import new_token as new_token
from .guard import request_json as request_json
from .headers import content_policy as content_policy
from .server import check_address as check_address
from .server import check_installed as check_installed
from .server import is_loopback as is_loopback
from .server import make_server as make_server
from .server import serve as serve
