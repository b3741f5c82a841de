"""A proxy for an object store that fails a fraction of the requests; as a script: PORT UPSTREAM FRACTION."""

import http.client
import random
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("429", "503", "reset", "short")
HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "date", "server"}


def serve(port, upstream, fraction, seed=0):
    rng = random.Random(seed)

    class Handler(BaseHTTPRequestHandler):
        def forward(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = rng.choice(FAULTS) if rng.random() < fraction else ""
            if fault == "reset":
                self.connection.close()
                return
            if fault in ("429", "503"):
                self.answer(int(fault), {"Retry-After": "1"}, b"not now")
                return
            upstream_connection = http.client.HTTPConnection(upstream, timeout=60)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP - {"host"}}
            upstream_connection.request(self.command, self.path, body, headers)
            answer = upstream_connection.getresponse()
            content = answer.read()
            upstream_connection.close()
            if fault == "short" and len(content) > 1:
                self.answer(answer.status, dict(answer.getheaders()), content, len(content) // 2)
            else:
                self.answer(answer.status, dict(answer.getheaders()), content)

        def answer(self, status, headers, content, sent=None):
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:sent])
            self.close_connection = True

        def log_message(self, *_):
            pass

        do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = forward

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            pass

    Server(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
