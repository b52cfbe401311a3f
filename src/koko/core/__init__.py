"""The protocol without I/O: no socket, ssl, threading, asyncio or time in here.

Bytes and timestamps come in as arguments; messages and owed bytes come out.
"""
