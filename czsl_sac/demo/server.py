"""Serving the page: at an address of this machine, until it is interrupted."""

import errno
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI
    from gradio import Blocks

_SYSTEM = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Liberation Sans", "sans-serif")
_MONOSPACE = ("ui-monospace", "Liberation Mono", "monospace")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens: who comes waits until somebody answers.

    Args:
        host: address of this machine.
        port: 0 takes any that is free.

    Raises:
        ValueError: another program listens there, or the address is not this machine's.

    Examples:
        >>> with listen("127.0.0.1", 0) as listening:
        ...     address(listening).startswith("http://127.0.0.1:")
        True
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise _not_ours(host) from None
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would take the port of a program that listens
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen()
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise _not_ours(host) from None
        reason = {
            errno.EADDRINUSE: "free, and another program listens there",
            errno.EACCES: "open to you, and the system keeps it",
        }.get(error.errno or 0, f"free ({error.strerror})")
        raise ValueError(
            f"port is {port} but must be {reason}: choose another, or --port 0 for any."
        ) from None
    return listening


def address(listening: socket.socket) -> str:
    """Return what to open in a browser."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


@contextmanager
def uploads() -> Iterator[Path]:
    """Let what is dropped on the page lie in a folder that is removed afterwards.

    Yields:
        The folder, which holds for pages that are built inside.
    """
    with TemporaryDirectory(prefix="czsl-sac-demo-", ignore_cleanup_errors=True) as folder:
        before = os.environ.get("GRADIO_TEMP_DIR")
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop("GRADIO_TEMP_DIR")
            if before is not None:
                os.environ["GRADIO_TEMP_DIR"] = before


def application(page: "Blocks") -> "FastAPI":
    """Return the application that shows a page, and asks no other machine for anything."""
    import gradio as gr
    from fastapi import FastAPI

    # The theme's own fonts would be asked for at their maker's.
    theme = gr.themes.Default(font=_SYSTEM, font_mono=_MONOSPACE).set(
        block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_400"
    )
    return gr.mount_gradio_app(
        FastAPI(),
        page,
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        theme=theme,
        css_paths=Path(__file__).parent / "templates" / "page.css",
    )


def serve(application: "FastAPI", listening: socket.socket) -> None:
    """Answer until SIGINT or SIGTERM comes."""
    import uvicorn

    config = uvicorn.Config(
        application, log_level="critical", timeout_graceful_shutdown=1, lifespan="on"
    )
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # let it clean up
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
        listening.close()


def _not_ours(host: str) -> ValueError:
    return ValueError(
        f"host is {host!r} but must be an address of this machine: leave it out for this machine "
        "alone, or give 0.0.0.0 for all that can reach it."
    )
