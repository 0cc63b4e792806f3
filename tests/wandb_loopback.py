"""A W&B server for the tests: GraphQL, file_stream and uploads on 127.0.0.1, what was sent kept in dictionaries."""

import json
import re
import threading
import time
from collections import defaultdict
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789abcdef0123456789abcdef01234567"  # of the right form, and nobody's
FIELDS = {"name": "displayName", "group": "groupName", "job_type": "jobType", "project": "project", "entity": "entity"}


class Loopback:
    """Serves at `url` from its birth to `close()`; `runs` holds what came, by W&B's run id.

    A request "METHOD /path" that the pattern `fails` matches is answered with status 500, for as many `times`, and so
    is every one once `takes` runs have come whole.
    """

    def __init__(self) -> None:
        self.fails = re.compile("never")
        self.times = self.takes = 10**6
        self.runs: dict[str, dict[str, Any]] = defaultdict(lambda: {"summary": {}, "history": [], "files": {}})
        self.sweeps: dict[str, str] = {}  # of runs that are of a sweep of W&B's, by run id
        self.artifacts: dict[str, dict[str, Any]] = {}  # by name
        self.views: dict[str, dict[str, Any]] = {}  # workspaces, by id
        self.delay = 0.0  # seconds before each answer
        self.lock = threading.Lock()
        self.dead = False
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"loopback": self}))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        """Dies: nothing listens any more, and connections that are open get no answer but their end."""
        if not self.dead:
            self.dead = True
            self._http.shutdown()
            self._http.server_close()

    @property
    def whole(self) -> list[str]:
        return [name for name, run in list(self.runs.items()) if "exit" in run]

    def stumbles(self, request: str) -> bool:
        with self.lock:
            meant = self.times > 0 and self.fails.search(request) is not None
            self.times -= meant
        return meant or len(self.whole) >= self.takes

    @property
    def projects(self) -> set[str]:
        return {run["project"] for run in self.runs.values() if "project" in run}

    def environment(self) -> dict[str, str]:
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    def graphql(self, operation: str, said: dict[str, Any]) -> dict[str, Any]:
        if operation == "UpsertBucket":
            run = self.runs[said["name"]]
            run |= {ours: said[theirs] for ours, theirs in FIELDS.items() if said[theirs] is not None}
            if said.get("sweep"):
                self.sweeps[said["name"]] = said["sweep"]
            if said["config"]:
                run["config"] = {key: item["value"] for key, item in json.loads(said["config"]).items()}
            project = {"id": "1", "name": said["project"], "entity": {"id": "1", "name": said["entity"] or "nobody"}}
            names = {"id": said["name"], "name": said["name"], "displayName": run["name"], "description": None}
            bucket = {**names, "config": None, "sweepName": None, "project": project, "historyLineCount": 0}
            return {"upsertBucket": {"inserted": True, "bucket": bucket}}
        if operation == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.url}/upload/{said['run']}/{file}"} for file in said["files"]]
            return {"createRunFiles": {"runID": said["run"], "uploadHeaders": [], "files": files}}
        if operation in ("Viewer", "GetDefaultEntity"):
            return {"viewer": {"id": "1", "entity": "nobody", "username": "nobody", "teams": {"edges": []}}}
        if operation == "View":
            views = [view for view in self.views.values() if view["name"] == said["viewName"]]
            nodes = [{"node": {key: view[key] for key in ("id", "displayName", "spec")}} for view in views]
            return {"project": {"allViews": {"edges": nodes}} if said["name"] in self.projects else None}
        if operation == "UpsertView2":
            view = {**said, "id": said.get("id") or f"view-{len(self.views)}"}
            self.views[view["id"]] = view
            return {"upsertView": {"view": {"id": view["id"], "name": view["name"]}, "inserted": "id" not in said}}
        if operation == "CreateArtifact":
            name, kind = said["input"]["artifactCollectionName"], said["input"]["artifactTypeName"]
            self.artifacts[name] = {"type": kind, "run": said["input"]["runName"], "files": {}}
            sequence = {"id": "1", "latestArtifact": None}
            return {"createArtifact": {"artifact": {"id": name, "state": "PENDING", "artifactSequence": sequence}}}
        if operation == "CreateArtifactManifest":
            file = {"id": "1", "name": said["name"], "displayName": said["name"], "uploadHeaders": []}
            file["uploadUrl"] = f"{self.url}/artifact/{said['artifactID']}/{said['name']}"
            return {"createArtifactManifest": {"artifactManifest": {"id": "1", "file": file}}}
        if operation == "CreateArtifactFiles":
            nodes = [
                {
                    "id": one["name"], "name": one["name"], "displayName": one["name"], "storagePath": one["name"],
                    "uploadUrl": f"{self.url}/artifact/{one['artifactID']}/{one['name']}", "uploadHeaders": [],
                    "uploadMultipartUrls": None, "artifact": {"id": one["artifactID"]},
                }
                for one in said["input"]["artifactFiles"]
            ]  # fmt: skip
            files = {"edges": [{"node": node} for node in nodes]}
            return {"createArtifactFiles": {"files": files}}
        if operation == "CommitArtifact":
            return {"commitArtifact": {"artifact": {"id": said["artifactID"], "digest": "1"}}}
        if operation == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        return {}

    def stream(self, name: str, said: dict[str, Any]) -> None:
        run = self.runs[name]
        for file, part in said.get("files", {}).items():
            lines = [json.loads(line) for line in part["content"]]
            if file == "wandb-summary.json":
                run["summary"] = lines[-1]
            elif file == "wandb-history.jsonl":
                run["history"][part["offset"] :] = lines
        if said.get("complete"):
            run["exit"] = said["exitcode"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    loopback: Loopback

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(OSError):  # a client that was killed
            super().handle()

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        time.sleep(self.loopback.delay)
        if self.loopback.dead:
            self.close_connection = True
            return
        if self.loopback.stumbles(f"{self.command} {self.path}"):
            self._answer(500, {})
        else:
            with self.loopback.lock:
                self._answer(200, self._take(body))

    do_GET = do_POST = do_PUT

    def _take(self, body: bytes) -> dict[str, Any]:
        if self.path == "/graphql":
            asked = json.loads(body)
            operation = asked.get("operationName") or re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])[1]
            return {"data": self.loopback.graphql(operation, asked.get("variables") or {})}
        if match := re.fullmatch(r"/files/.+/(\w+)/file_stream", self.path):
            self.loopback.stream(match[1], json.loads(body))
        elif match := re.fullmatch(r"/upload/(\w+)/(.+)", self.path):
            self.loopback.runs[match[1]]["files"][match[2]] = body
        elif match := re.fullmatch(r"/artifact/(.+)/(.+)", self.path):
            self.loopback.artifacts[match[1]]["files"][match[2]] = body
        return {}

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
