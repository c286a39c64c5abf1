"""An engine behind OpenAI's API over HTTP, as ``kvpool serve`` runs it.

Needs the extra ``kvpool[serve]``; the guide is the page "server".
"""

from __future__ import annotations

from kvpool import _exports
from kvpool import errors as _errors

try:
    from kvpool.server._app import create_app
    from kvpool.server._keys import Keys, SaltFrom
    from kvpool.server._running import ListenError, Server, bound_socket
except ModuleNotFoundError as error:
    raise _errors.MissingExtraError(
        f'a server needs what is not installed: install "kvpool[serve]" ({error})'
    ) from error

__all__ = ["Keys", "ListenError", "SaltFrom", "Server", "bound_socket", "create_app"]

_exports.publish(__name__)
