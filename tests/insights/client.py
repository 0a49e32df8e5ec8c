"""A client of the server with nothing but the standard library."""

import http.client
import json
from urllib.parse import urlsplit

SESSION = "a" * 32


class Client:
    def __init__(self, address, session=SESSION):
        self.address, self.session = urlsplit(address), session

    def ask(self, method, path, body=None, **headers):
        """Status, headers, and the body, read as JSON if it is."""
        connection = http.client.HTTPConnection(self.address.netloc, timeout=20)
        given = {"X-Session": self.session, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if body is not None:
            given.setdefault("Content-Type", "application/json")
            body = body if isinstance(body, bytes | str) else json.dumps(body)
        connection.request(method, path, body, given)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        is_json = answer.headers.get_content_type() == "application/json"
        return answer.status, answer.headers, json.loads(text) if is_json else text

    def post(self, path, body=None, **headers):
        return self.ask("POST", path, {} if body is None else body, **headers)

    def get(self, path, **headers):
        return self.ask("GET", path, **headers)

    def explain(self, text="One. Two.", **more):
        status, _, found = self.post("/api/explain", {"prompt": text, "target": " x", **more})
        assert status == 202, found
        return found["job"]

    def events(self, until, after=None):
        """The events from `after` on, up to and including the first for which `until(kind, data)`."""
        connection = http.client.HTTPConnection(self.address.netloc, timeout=20)
        headers = {"X-Session": self.session} | ({} if after is None else {"Last-Event-ID": str(after)})
        connection.request("GET", "/api/events", headers=headers)
        answer, found, event = connection.getresponse(), [], {}
        for raw in answer:
            name, _, value = raw.decode().rstrip("\n").partition(": ")
            if name:
                event[name] = value
            elif "event" in event:
                found.append((int(event["id"]), event["event"], json.loads(event["data"])))
                event = {}
                if until(*found[-1][1:]):
                    break
            else:
                event = {}
        connection.close()
        return found

    def wait(self, job):
        """The events of a job until it is over."""
        over = ("result", "failed", "cancelled")
        return self.events(lambda kind, data: data["job"] == job and kind in over, after=0)
