#!/usr/bin/env bash
# lm-format-enforcer forces values that the schema's enum does not have, or broken JSON, where a value needs an escape.
#
# Version:     lm-format-enforcer 0.11.3
# Expectation: with {"enum": [...]} a model can only write one of the values, as JSON: a quote as \", a newline as \n.
# Behaviour:   the parser compares the text on the wire with the unescaped value. A quote within a value ends the
#              string there, so of Jack "Red" Miller only "Jack " can be written; a newline is demanded as it is, which
#              JSON forbids. No error and no warning, and `const` does the same. Characters of a cast, given to a model
#              as an enum, are lost this way.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check lm-format-enforcer==0.11.3 pydantic==2.14.4 numpy==2.4.6
"$here/venv/bin/python" -W error - <<'PY'
import importlib.metadata, json
from lmformatenforcer import JsonSchemaParser

def writable(schema):
    """Every whole text that the parser lets a model write, blanks around it apart."""
    found, open_ends = [], [("", JsonSchemaParser(schema))]
    while open_ends:
        text, parser = open_ends.pop()
        allowed = parser.get_allowed_characters()
        if text and parser.can_end():
            found.append(text)
            continue
        open_ends += [(text + c, parser.add_character(c)) for c in allowed if text or c == '"']
    return sorted(found)

def read(text):
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        return error.msg

print("lm-format-enforcer", importlib.metadata.version("lm-format-enforcer"))
seen = {}
for values in (["Ann", "Jack Miller"], ["Ann", 'Jack "Red" Miller'], ["Ann", "Jack\nMiller"]):
    texts = seen[values[1]] = writable({"type": "string", "enum": values})
    print(values, "->", texts, "->", [read(text) for text in texts])
assert [read(text) for text in seen["Jack Miller"]] == ["Ann", "Jack Miller"]
assert '"Jack "' in seen['Jack "Red" Miller'] and json.dumps('Jack "Red" Miller') not in seen['Jack "Red" Miller']
assert '"Jack\nMiller"' in seen["Jack\nMiller"] and json.dumps("Jack\nMiller") not in seen["Jack\nMiller"]
PY
# Output seen:
# lm-format-enforcer 0.11.3
# ['Ann', 'Jack Miller'] -> ['"Ann"', '"Jack Miller"'] -> ['Ann', 'Jack Miller']
# ['Ann', 'Jack "Red" Miller'] -> ['"Ann"', '"Jack "'] -> ['Ann', 'Jack ']
# ['Ann', 'Jack\nMiller'] -> ['"Ann"', '"Jack\nMiller"'] -> ['Ann', 'Invalid control character at']
