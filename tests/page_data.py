"""Reads the data that is embedded in our HTML pages."""

import json
import re


def data_of(path):
    """Return what a page holds, as a browser would find it."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), flags=re.DOTALL)
    return json.loads(text)
