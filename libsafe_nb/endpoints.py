"""
The one table of REST calls: method, path and what is known of each.

`verified` is one of
  "vendor"      the vendor's documentation shows this call
  "client"      seen in public client code that talks to a real instance
  "unverified"  ours: the operation exists on the platform, but nobody could check its path or shape

Paths are below the API's base, which ends in `/api`. The client builds its URLs from this table and the
local platform its routes, so one corrected line corrects both; `docs/platform.md` is made from it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Endpoint:
    method: str
    path: str
    verified: str
    does: str


ENDPOINTS: dict[str, Endpoint] = {
    # Shown by the vendor, or seen in clients of real instances.
    "container_create": Endpoint("POST", "/container", "vendor", "create a container (form fields)"),
    "container_metadata_set": Endpoint(
        "PUT", "/container/{container}/metadata", "client", "write descriptors of a container"
    ),
    "file_upload": Endpoint(
        "POST",
        "/container/{container}/file/upload",
        "client",
        "upload a file in chunks (multipart form: file, fileName, chunkIndex, path)",
    ),
    "file_by_path": Endpoint(
        "GET",
        "/container/{container}/file/path/{path:path}",
        "client",
        "look a file or folder up by its path",
    ),
    "folder_create": Endpoint("POST", "/container/{container}/folder", "client", "create a folder"),
    "file_list": Endpoint(
        "GET",
        "/container/{container}/file/list",
        "client",
        "list a container's files and folders; `limit` and `after` page, `type`, `prefix`, `parent`, `deleted` narrow it down (all unverified)",
    ),
    "file_tag": Endpoint(
        "POST", "/file/{file}/tag/{tag}", "vendor", "put a tag on a file (method unverified)"
    ),
    # Ours.
    "health": Endpoint("GET", "/health", "unverified", "is the server up (needs no key)"),
    "me": Endpoint("GET", "/user/me", "unverified", "the user whom the key belongs to"),
    "user_create": Endpoint(
        "POST", "/user", "unverified", "create a user; answers the API key and S3 credentials once (root key)"
    ),
    "user_key_revoke": Endpoint(
        "DELETE", "/user/{user}/key", "unverified", "revoke a user's API key (root key)"
    ),
    "user_s3_create": Endpoint("POST", "/user/{user}/s3", "unverified", "regenerate a user's S3 credentials"),
    "user_s3_revoke": Endpoint("DELETE", "/user/{user}/s3", "unverified", "revoke a user's S3 credentials"),
    "container_list": Endpoint("GET", "/container", "unverified", "the containers that the key may see"),
    "container_get": Endpoint("GET", "/container/{container}", "unverified", "one container"),
    "container_metadata_get": Endpoint(
        "GET", "/container/{container}/metadata", "unverified", "read descriptors of a container"
    ),
    "container_grant": Endpoint(
        "POST", "/container/{container}/grant", "unverified", "let another user work in a container"
    ),
    "container_import": Endpoint(
        "POST",
        "/container/{container}/import",
        "unverified",
        "register rows of files in bulk (JSON lines; the container's owner or root)",
    ),
    "notebook_open": Endpoint(
        "GET",
        "/container/{container}/notebook/{path:path}",
        "unverified",
        "open a notebook: needs an active API key and S3 credentials, else 403",
    ),
    "file_get": Endpoint("GET", "/file/{file}", "unverified", "one file, with its hashes and tags"),
    "file_delete": Endpoint("DELETE", "/file/{file}", "unverified", "soft-delete a file"),
    "file_restore": Endpoint("POST", "/file/{file}/restore", "unverified", "undo a soft-delete"),
    "file_versions": Endpoint("GET", "/file/{file}/version", "unverified", "a file's versions, newest first"),
    "file_storage_class": Endpoint(
        "PUT",
        "/file/{file}/storage-class",
        "unverified",
        "move a file to another storage class (off-line ones cannot be read)",
    ),
    "file_metadata_get": Endpoint(
        "GET", "/file/{file}/metadata", "unverified", "read a file's descriptors; null when it has none"
    ),
    "file_metadata_set": Endpoint("PUT", "/file/{file}/metadata", "unverified", "write a file's descriptors"),
    "file_hash_set": Endpoint("PUT", "/file/{file}/hash", "unverified", "store a hash of a file"),
    "file_untag": Endpoint("DELETE", "/file/{file}/tag/{tag}", "unverified", "take a tag off a file"),
    "file_search": Endpoint(
        "POST",
        "/file/search",
        "unverified",
        "advanced file search: the vendor's properties and operators (path unverified)",
    ),
    "bulk_hash": Endpoint("POST", "/file/bulk/hash", "unverified", "store many hashes"),
    "bulk_metadata": Endpoint("POST", "/file/bulk/metadata", "unverified", "write descriptors of many files"),
    "bulk_metadata_get": Endpoint(
        "POST", "/file/bulk/metadata/get", "unverified", "read descriptors of many files, by `ids`"
    ),
    "bulk_read": Endpoint(
        "POST",
        "/file/bulk/read",
        "unverified",
        "tell which files a run has read (starts `file_read` triggers)",
    ),
    "tag_list": Endpoint("GET", "/tag", "unverified", "all tags"),
    "tag_create": Endpoint("POST", "/tag", "unverified", "create a tag"),
    "tag_delete": Endpoint("DELETE", "/tag/{tag}", "unverified", "remove a tag"),
    "job_create": Endpoint("POST", "/job", "unverified", "create a job"),
    "job_list": Endpoint("GET", "/job", "unverified", "jobs, by `status` and `container_id`"),
    "job_get": Endpoint("GET", "/job/{job}", "unverified", "one job"),
    "job_key": Endpoint("GET", "/job/{job}/key", "unverified", "the key that signs what a job writes"),
    "job_update": Endpoint("PUT", "/job/{job}", "unverified", "set a job's status, result or progress"),
    "job_messages": Endpoint("GET", "/job/{job}/message", "unverified", "a job's messages, oldest first"),
    "job_message": Endpoint("POST", "/job/{job}/message", "unverified", "write a job message"),
    "bulk_message": Endpoint("POST", "/job/{job}/message/bulk", "unverified", "write many job messages"),
    "function_publish": Endpoint(
        "POST", "/function", "unverified", "publish a function, or a new version of it"
    ),
    "function_list": Endpoint(
        "GET", "/function", "unverified", "all functions; `all=true`: those for calls by path too"
    ),
    "function_get": Endpoint("GET", "/function/{function}", "unverified", "one function, by its key"),
    "function_update": Endpoint(
        "PUT",
        "/function/{function}",
        "unverified",
        "enable, disable, pause, go back to another version, set concurrency and attempts",
    ),
    "function_versions": Endpoint(
        "GET", "/function/{function}/version", "unverified", "a function's versions, newest first"
    ),
    "function_content": Endpoint(
        "GET",
        "/function/{function}/version/{number}",
        "unverified",
        "the bytes of one version (for the platform's own user and root)",
    ),
    "call_create": Endpoint(
        "POST",
        "/function/{function}/call",
        "unverified",
        "queue a call with chosen files or folders; 429 when too many wait",
    ),
    "trigger_create": Endpoint("POST", "/trigger", "unverified", "add a trigger to a function"),
    "trigger_list": Endpoint(
        "GET",
        "/trigger",
        "unverified",
        "triggers, by `function`; those of containers in which one may work, and of any",
    ),
    "trigger_get": Endpoint("GET", "/trigger/{trigger}", "unverified", "one trigger"),
    "trigger_update": Endpoint("PUT", "/trigger/{trigger}", "unverified", "enable or disable a trigger"),
    "trigger_delete": Endpoint("DELETE", "/trigger/{trigger}", "unverified", "remove a trigger"),
    "call_list": Endpoint(
        "GET", "/call", "unverified", "calls, by `status`, `function`, `container_id`; `order=newest`"
    ),
    "call_get": Endpoint("GET", "/call/{call}", "unverified", "one call"),
    "call_look": Endpoint(
        "POST",
        "/call/look",
        "unverified",
        "many calls by `ids`, with their jobs' results; waits for the end of one of them",
    ),
    "call_update": Endpoint("PUT", "/call/{call}", "unverified", "cancel a call, or set its priority"),
    "call_requeue": Endpoint(
        "POST", "/call/{call}/requeue", "unverified", "queue a dead, failed or cancelled call once more"
    ),
    "queue_get": Endpoint(
        "GET", "/queue", "unverified", "how many calls wait, run and ended, and what does not work"
    ),
    "queue_update": Endpoint(
        "PUT",
        "/queue",
        "unverified",
        "pause or resume the whole queue; how long, and how many, ended calls are kept",
    ),
    "call_claim": Endpoint("POST", "/call/claim", "unverified", "a worker asks for a call, with a lease"),
    "host_look": Endpoint(
        "POST",
        "/call/host",
        "unverified",
        "a host of a workflow's own workers asks whether one more is needed",
    ),
    "call_renew": Endpoint("PUT", "/call/{call}/lease", "unverified", "a worker renews its lease"),
    "call_release": Endpoint(
        "PUT", "/call/{call}/release", "unverified", "a worker is done with a call whose job is still open"
    ),
}


def table() -> str:
    """The table as Markdown; `docs/platform.md` holds what this gives (`python -m libsafe_nb.endpoints`)."""
    rows = [f"| `{each.method} {each.path}` | {each.does} | {each.verified} |" for each in ENDPOINTS.values()]
    return "\n".join(["| call | does | known from |", "|---|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    print(table(), end="")
