"""python-tuf as sigstore-python uses it: one request a line on standard input, one answer a line on standard output.

Each request is an Updater of its own that knows only what lies in its state folder. The time is the machine's.
"""

import hashlib
import json
import os
import sys

from tuf.ngclient import Updater


def serve(request):
    state = request["state"]
    targets = os.path.join(state, "targets")
    os.makedirs(targets, exist_ok=True)
    # `sigstore trust-instance` gives the root once; later runs trust what is cached (sigstore/_internal/tuf.py).
    known = os.path.exists(os.path.join(state, "root.json"))
    with open(request["root"], "rb") as file:
        root = file.read() if request.get("pinned") or not known else None
    updater = Updater(
        metadata_dir=state,
        metadata_base_url=request["mirror"],
        target_base_url=request["mirror"] + "/targets/",
        target_dir=targets,
        bootstrap=root,
    )
    updater.refresh()
    digests = {}
    for name in request["targets"]:
        info = updater.get_targetinfo(name)
        if info is None:
            raise ValueError(f"no target {name}")
        path = updater.find_cached_target(info) or updater.download_target(info)
        with open(path, "rb") as file:
            digests[name] = hashlib.sha256(file.read()).hexdigest()
    versions = {}
    for role in ("root", "timestamp", "snapshot", "targets"):
        with open(os.path.join(state, f"{role}.json"), "rb") as file:
            versions[role] = json.load(file)["signed"]["version"]
    return {"versions": versions, "targets": digests}


for line in sys.stdin:
    try:
        answer = serve(json.loads(line))
    except Exception as error:  # whatever the library says is what its user sees
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
