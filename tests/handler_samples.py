"""Handlers as authors of the vendor's platform write them, in both module layouts."""

NEWER = '''"""Relates each file to a record of the finding aid."""
import json

from libnova.common.api import File
from libnova.common.api.JobMessage import JobMessageType
from libnova.common.nuclio.Request import Request

PREFIX = "aspace"


def reference(number):
    """Where a record is; a text of
    more than one line."""
    return PREFIX + ":/repositories/2/archival_objects/" + number


def handler(context, event):
    context.logger.info("called with %d bytes", len(event.body))
    payload = json.loads(event.body.decode("utf-8"))
    number = payload["function_params"].get("record", "7")

    request = Request(context, event)
    request.job_init()

    for file_id in request.JSONData["function_data"]["files"]["ids"]:
        if File.get_metadata(file_id, flatten=True) is None:
            context.logger.warn_with("no metadata yet", file=file_id)
        # The body is JSON as text.
        File.set_metadata(file_id, '{"metadata": [{"iecode": "relation", "value": "' + reference(number) + '"}]}')
        request.log("related", JobMessageType.INFO, file_id)

    request.job_end(True)
    return context.Response(body="related", headers={}, content_type="text/plain", status_code=200)


if __name__ == "__main__":
    raise SystemExit("only for trying it by hand")
'''

OLDER = """
import hashlib
from libnova import com, Util
from libnova.com import Nuclio
from libnova.com.Api import File, JobMessage
from libnova.com.Filesystem import S3


def handler(context, event):
    request = com.Nuclio.Request.Request(context, event)
    request.job_init()

    for file in request.Files:
        digest = hashlib.md5()
        stream = S3.File.get_stream(request.Storage, file)
        while block := stream.read(8192):
            digest.update(block)
        File.set_hash(file.id, "md5", digest.hexdigest())
        request.log("hashed " + Util.format_json_item({"id": file.id}), JobMessage.JobMessageType.INFO, file.id)

    request.job_end(True)
"""
