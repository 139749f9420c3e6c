"""
Serves the repositories below a directory over HTTP with git's own program, to who says ``ada:secret``.

Run inside of a sandbox: ``python3 git_server.py PORT DIRECTORY``; says ``ready`` when it listens.
"""

import base64
import http.server
import os
import subprocess
import sys

WANTED = "Basic " + base64.b64encode(b"ada:secret").decode()
DIRECTORY = sys.argv[2]


class Handler(http.server.BaseHTTPRequestHandler):
    """Asks who it is, and has git answer."""

    def answer(self):
        if self.headers.get("Authorization") != WANTED:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        request = {
            "GIT_PROJECT_ROOT": DIRECTORY,
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "REMOTE_USER": "ada",
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        command = ["git", "http-backend"]
        told = subprocess.run(command, input=body, env=os.environ | request, capture_output=True).stdout
        head, _, content = told.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = answer  # noqa: N815 - the base class's names

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
sys.stdout.write("ready\n")
sys.stdout.flush()
server.serve_forever()
