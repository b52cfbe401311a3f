"""Koko inside other people's servers and frameworks, one module for each; import the one you use.

``websocket(upgrader)`` makes of a function of an open connection what the framework
calls. It is told what a handler of ``koko.sync.Server`` is told, and ends like one: a
client that may not come in gets its answer; a handler that returns closes with 1000; one
that raises is logged and closes with 1011; a ``CloseError`` is an ordinary end.
"""
