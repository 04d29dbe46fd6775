"""The JSON schema of a configuration file, by which editors complete and check options.

json.dumps(schema())
"""

from typing import Any

from leff.runs.options import RunConfig


def schema() -> dict[str, Any]:
    """Return the schema.  A file that it refuses, a run refuses too."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **RunConfig.model_json_schema(),
        "title": "A run of LEFF",
    }
