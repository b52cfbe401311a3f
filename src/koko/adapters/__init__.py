"""Koko inside other servers and frameworks, one module for each; import the one you use.

``websocket(upgrader)`` makes a view of a function that gets an open connection. The function
ends like a handler of ``koko.sync.Server``: one that returns closes with 1000; one that raises
is logged and closes with 1011; a ``CloseError`` is an ordinary end. A refused client gets its
answer.
"""
