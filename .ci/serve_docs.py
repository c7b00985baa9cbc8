"""Run the README's command that serves the docs, and read the first page from it."""

import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

(line,) = re.findall(r"(?m)^pip install .* && (mkdocs .*)$", Path("README.md").read_text("utf-8"))
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
command = [sys.executable, "-m", *shlex.split(line), "--dev-addr", address]
server = subprocess.Popen(command)
try:
    for _ in range(120):
        if server.poll() is not None:
            sys.exit(f"`{line}` ended with {server.returncode}")
        try:
            page = urllib.request.urlopen(f"http://{address}/", timeout=5).read().decode()
            break
        except OSError:
            time.sleep(1)
    else:
        sys.exit(f"`{line}` served nothing within two minutes")
finally:
    server.terminate()
assert "<title>czsl-sac</title>" in page, page[:500]
print(f"`{line}` serves the docs")
