"""The container's health check: asks ``/healthz`` and exits 1 where there is no progress."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request

URL = "http://127.0.0.1:8710/healthz"
TIMEOUT_SECONDS = 4


def main() -> int:
    """Print the daemon's own words and return its verdict as an exit code."""
    token = os.environ.get("BALLAST_TOKEN", "")
    request = urllib.request.Request(URL, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            print(answer.read().decode().strip())
            return 0
    except urllib.error.HTTPError as error:
        print(error.read().decode().strip())
    except OSError as error:
        print(f"{URL}: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
