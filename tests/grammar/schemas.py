# SPDX-License-Identifier: Apache-2.0
"""Random JSON schemas out of the keywords that the compiler knows, and random regular expressions and grammars."""
import json

FORMATS = ["date", "time", "date-time", "uuid", "email", "ipv4", "ipv6", "uri", "hostname"]
PATTERNS = ["^[a-z]{2,5}$", "^\\d{3}-\\d{4}$", "ab+c", "^(foo|bar)", "x$", "^[^\"\\\\]{0,6}$", "^é[à-ÿ]*$", "^\\w+@\\w+$"]
WORDS = ["a", "name", "id", "x-y", "größe", "a\"b", "line\n", "back\\slash", "日本", "", "namex", "n"]


class Schemas:
    def __init__(self, random):
        self.r = random

    def document(self):
        """A schema with definitions that may refer to each other, and to themselves where they can end."""
        self.defs = {}
        self.names = [f"d{i}" for i in range(self.r.randint(0, 3))]
        for name in self.names:
            self.defs[name] = self.object(2) if self.r.random() < 0.7 else self.schema(2)
        schema = self.schema(3) if self.r.random() < 0.3 else self.object(3)
        if self.defs:
            schema = {**schema, "$defs": self.defs} if "$ref" not in schema else {"allOf": [schema], "$defs": self.defs}
        return schema

    def schema(self, depth):
        r, kinds = self.r, [self.string, self.integer, self.number, self.constant, self.simple, self.typed_enum]
        if depth > 0:
            kinds += [self.object_, self.object_, self.array, self.array, self.any_of, self.one_of, self.all_of, self.tuple]
            if self.names:
                kinds += [self.ref, self.ref]
        self.depth = depth
        made = r.choice(kinds)(depth - 1)
        if isinstance(made, dict) and r.random() < 0.2:
            made = {"title": "t", "description": "d", **made}
        if isinstance(made.get("type"), str) and "enum" not in made and r.random() < 0.1:
            made["nullable"] = True
        return made

    def simple(self, _):
        return self.r.choice([{"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}, {},
                              {"type": ["integer", "boolean"]}, {"type": "object"}, {"type": "array"}])

    def string(self, _):
        r, kind = self.r, self.r.randint(0, 4)
        if kind == 0:
            return {"type": "string", "pattern": r.choice(PATTERNS)}
        if kind == 1:
            return {"type": "string", "format": r.choice(FORMATS)}
        low = r.randint(0, 4)
        made = {"type": "string"}
        if kind >= 2 and r.random() < 0.7:
            made["minLength"] = low
        if kind >= 2 and r.random() < 0.7:
            made["maxLength"] = low + r.randint(0, 30)
        return made

    def integer(self, _):
        return self.bounds({"type": "integer"}, lambda: self.r.choice([0, 1, -1, 7, 10, -42, 99, 100, 12345, 10**9]))

    def number(self, _):
        return self.bounds({"type": "number"}, lambda: self.r.choice([0, 1, -1, 0.5, -2.25, 3.1415, 10, 99.99, 1e6, 0.001]))

    def bounds(self, made, draw):
        r = self.r
        a, b = sorted([draw(), draw()])
        if r.random() < 0.5:
            made[r.choice(["minimum", "exclusiveMinimum"])] = a
        if r.random() < 0.5:
            made[r.choice(["maximum", "exclusiveMaximum"])] = b + 1
        if r.random() < 0.2:
            made["multipleOf"] = r.choice([2, 5, 7, 10]) if made["type"] == "integer" else r.choice([0.1, 0.01, 5])
        return made

    def constant(self, _):
        r = self.r
        value = r.choice([1, "a", None, True, -2.5, "q\"\\\n\t\u0001é", {"k": [1, "x"]}, [1, [2]]])
        return {"const": value} if r.random() < 0.5 else {"enum": [value, r.choice([3, "b", False]), "zz", "za"]}

    def typed_enum(self, _):
        r = self.r
        return {"type": "string", "enum": r.sample(WORDS, r.randint(1, 5))}

    def object_(self, depth):
        return self.object(depth)

    def object(self, depth):
        r = self.r
        names = r.sample(WORDS, r.randint(0, 4))
        made = {"type": "object", "properties": {n: self.schema(max(depth, 0)) for n in names}}
        if r.random() < 0.7:
            made["required"] = [n for n in names if r.random() < 0.6] + (["extra"] if r.random() < 0.1 else [])
        extra = r.random()
        if extra < 0.4:
            made["additionalProperties"] = False
        elif extra < 0.6:
            made["additionalProperties"] = self.schema(0)
        elif extra < 0.7 and not names:
            made["patternProperties"] = {"^k[0-9]$": self.schema(0)}
            made["additionalProperties"] = False
        if not names:
            del made["properties"]
            if r.random() < 0.3:
                made["maxProperties"] = r.randint(0, 3)
            if r.random() < 0.3 and "required" not in made:
                made["minProperties"] = 1
                made.pop("maxProperties", None)
        return made

    def array(self, depth):
        r = self.r
        made = {"type": "array", "items": self.schema(max(depth, 0))}
        low = r.randint(0, 2)
        if r.random() < 0.5:
            made["minItems"] = low
        if r.random() < 0.6:
            made["maxItems"] = low + r.randint(0, 3)
        return made

    def tuple(self, depth):
        r = self.r
        made = {"type": "array", "prefixItems": [self.schema(max(depth, 0)) for _ in range(r.randint(1, 3))]}
        if r.random() < 0.5:
            made["items"] = False if r.random() < 0.6 else self.schema(0)
        if r.random() < 0.6:
            made["minItems"] = r.randint(0, len(made["prefixItems"]))
        return made

    def any_of(self, depth):
        return {"anyOf": [self.schema(max(depth, 0)) for _ in range(self.r.randint(1, 3))]}

    def one_of(self, depth):
        r = self.r
        if r.random() < 0.5:
            return {"oneOf": [{"type": "string"}, self.integer(0), {"type": "null"}]}
        kinds = r.sample(["cat", "dog", "emu"], r.randint(1, 3))
        return {"oneOf": [{"type": "object", "properties": {"kind": {"const": k}, "v": self.schema(0)},
                           "required": ["kind"], "additionalProperties": False} for k in kinds]}

    def all_of(self, depth):
        r = self.r
        one, two = r.sample(WORDS, 2)
        made = {"allOf": [{"type": "object", "properties": {one: self.schema(max(depth, 0))}, "required": [one]},
                          {"properties": {two: self.schema(0), one: {}}, "required": [two]}]}
        if r.random() < 0.3:
            made["properties"] = {one: {}, two: {}}
            made["additionalProperties"] = False
        return made

    def ref(self, _):
        made = {"$ref": "#/$defs/" + self.r.choice(self.names)}
        # A way out, so that recursion can end.
        return {"anyOf": [{"type": "null"}, made]} if self.r.random() < 0.8 else made


def regex(r, depth=3):
    """A regular expression of the part that Python's re and ours share."""
    def atom(d):
        kind = r.randint(0, 9 if d > 0 else 6)
        if kind <= 2:
            return r.choice(["a", "b", "c", "\\.", "é", "日", " ", "\\n", "x", "0"])
        if kind == 3:
            return r.choice(["[a-c]", "[^a-y]", "[\\d_]", "[é-ü]", "[^\\W\\d]", "[\\s\\-]", "[a\\]b]", "[.*]"])
        if kind <= 5:
            return r.choice(["\\d", "\\w", "\\s", "."])
        if kind == 6:
            return "\\u00e9"
        return ("(" if r.random() < 0.5 else "(?:") + alternatives(d - 1) + ")"

    def repeat(d):
        low, made = r.randint(0, 3), atom(d)
        if made.endswith(")"):  # repeats of repeats would keep Python's re busy for ever
            return made + r.choice(["", "", "?", "{2}", "{1,3}", "*", "{0,12}"])
        return made + r.choice(["", "", "", "*", "+", "?", "*?", f"{{{low}}}", f"{{{low},}}", f"{{{low},{low + r.randint(0, 30)}}}"])

    def alternatives(d):
        return "|".join("".join(repeat(d) for _ in range(r.randint(0 if d < depth else 1, 3))) for _ in range(r.choice([1, 1, 2, 3])))

    return alternatives(depth)


def grammar(r):
    """A small grammar over a few letters, without left recursion, as text and as a structure for Recogniser."""
    names = ["root", "p", "q", "r-1"][:r.randint(1, 4)]
    rules = {}
    for name in names:
        alternatives = []
        for _ in range(r.randint(1, 3)):
            parts = []
            for k in range(r.randint(0, 3)):
                kind = r.random()
                if kind < 0.55 or k == 0:
                    part = ("text", r.choice(["a", "b", "ab", "c", "é", "(", ")"]))
                elif kind < 0.7:
                    part = ("class", r.choice([("abc", False), ("é(", False), ("ab", True)]))
                else:
                    part = ("rule", r.choice(names))
                # What comes first takes a character: nothing is left-recursive.
                parts.append((part, r.choice(["", "", "+", "{2}"] if k == 0 else ["", "", "", "", "*", "+", "?", "{2}", "{1,3}"])))
            alternatives.append(parts)
        alternatives.append([(("text", r.choice("abc")), "")])  # a way out
        rules[name] = alternatives

    def spell(part):
        (kind, value), repeat = part
        if kind == "text":
            return json.dumps(value, ensure_ascii=False) + repeat
        if kind == "class":
            return "[" + ("^" if value[1] else "") + value[0] + "]" + repeat
        return value + repeat

    text = "".join(f"{name} ::= {' | '.join(' '.join(spell(p) for p in parts) for parts in rules[name])} # {name}\n" for name in names)
    return text, rules
