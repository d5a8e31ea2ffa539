"""How the dashboard's server listens."""

import socket

import pytest
from streamlit.web.server.starlette import starlette_server

from dashboard.server import send_at_once


def test_connections_of_the_server_send_small_answers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        starlette_server, "_bind_socket", starlette_server._bind_socket
    )  # put back at the end
    send_at_once()
    with starlette_server._bind_socket("127.0.0.1", 0, 5) as listening:
        listening.setblocking(True)
        with socket.create_connection(listening.getsockname()) as _:
            accepted, _ = listening.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_streamlit_that_binds_elsewhere_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(starlette_server, "_bind_socket")
    send_at_once()
    assert not hasattr(starlette_server, "_bind_socket")
