#!/usr/bin/env python3
"""Text for the demo model: fetch Debian packages, turn them into plain text, train the tokenizer, tokenise.

Owns: the list of packages and their licences, the cleaning and deduplication, the held-out split, the
tokenizer files, and the token files that train.py reads.  Needs a Debian system (apt-get download,
dpkg-deb) and the packages in requirements.txt.

    corpus.py fetch  WORK     download the packages into WORK/deb
    corpus.py text   WORK     WORK/docs/PACKAGE.jsonl, one document a line
    corpus.py tok    WORK     WORK/tok/tokenizer.json and friends
    corpus.py pack   WORK     WORK/pack/train.u16.xz, heldout.u16, WORK/heldout.txt, WORK/licences.table
"""
import glob, gzip, hashlib, html, json, lzma, os, re, subprocess, sys, tarfile, unicodedata
from concurrent.futures import ProcessPoolExecutor

# package -> (licence as its copyright file gives it for the text used, cap in MB of text, path patterns)
# All from Debian main; LICENCES.md says what the licences allow together.
MAN = r"usr/share/man/man\d.*/.*\.gz$"
HTML = r"usr/share/.*\.x?html?(\.gz)?$"
PACKAGES = {
    # manual pages
    "freebsd-manpages": ("BSD-2-Clause, BSD-4-Clause", 12, MAN),
    "erlang-manpages": ("Apache-2.0", 6, r"usr/share/man/man\d.*\.gz$"),
    "libssl-doc": ("Apache-2.0", 5, MAN),
    "tcl8.6-doc": ("TCL (BSD-style)", 4, MAN),
    "tk8.6-doc": ("TCL (BSD-style)", 4, MAN),
    "ncurses-doc": ("MIT-X11", 4, MAN + "|" + HTML),
    "libx11-doc": ("MIT-X11", 4, MAN + "|" + HTML),
    "xorg-docs": ("MIT-X11", 3, MAN + "|" + HTML + r"|usr/share/doc/.*\.txt\.gz$"),
    "systemd": ("LGPL-2.1-or-later", 4, MAN),
    "util-linux": ("GPL-2.0-or-later and permissive", 3, MAN),
    "coreutils": ("GPL-3.0-or-later", 2, MAN),
    "samba-common-bin": ("GPL-3.0-or-later", 3, MAN),
    "samba": ("GPL-3.0-or-later", 3, MAN),
    "smbclient": ("GPL-3.0-or-later", 3, MAN),
    "openssh-client": ("BSD", 2, MAN),
    "openssh-server": ("BSD", 2, MAN),
    # programming documentation
    "perl-doc": ("Artistic or GPL-1.0-or-later", 9, r"usr/share/perl/.*\.pod$"),
    "python3.11-doc": ("PSF-2.0", 9, HTML),
    "postgresql-doc-15": ("PostgreSQL", 9, HTML),
    "apache2-doc": ("Apache-2.0", 5, r"usr/share/doc/apache2-doc/manual/en/.*\.html$"),
    "sqlite3-doc": ("public domain", 6, HTML),
    "bind9-doc": ("MPL-2.0", 3, HTML),
    "python-django-doc": ("BSD-3-Clause", 6, HTML),
    "python-scipy-doc": ("BSD-3-Clause", 3, HTML),
    "python-sympy-doc": ("BSD-3-Clause", 3, HTML),
    "python-sklearn-doc": ("BSD-3-Clause", 4, HTML),
    "python-pandas-doc": ("BSD-3-Clause", 3, HTML),
    "python-astropy-doc": ("BSD-3-Clause", 3, HTML),
    "python-statsmodels-doc": ("BSD-3-Clause", 2, HTML),
    "python-sqlalchemy-doc": ("MIT", 4, HTML),
    "twisted-doc": ("MIT", 3, HTML),
    "cppreference-doc-en-html": ("CC-BY-SA-3.0 or GFDL (no invariant sections)", 5, HTML),
    "llvm-14-doc": ("Apache-2.0 with LLVM exception", 6, HTML),
    "rust-doc": ("MIT or Apache-2.0", 8, r"usr/share/doc/rust-doc/html/(book|reference|nomicon|rust-by-example|cargo|rustc|rustdoc|edition-guide|embedded-book)/.*\.html$"),
    "racket-doc": ("MIT or Apache-2.0", 9, HTML),
    "nodejs-doc": ("MIT", 4, HTML),
    "libboost1.81-doc": ("BSL-1.0", 6, HTML),
    "maxima-doc": ("GPL-2.0 (the file names no later version)", 4, HTML),
    "ghc-doc": ("BSD-3-Clause", 4, r"users_guide/.*\.html$"),
    "zsh-doc": ("MIT-style (zsh licence)", 3, HTML),
    "exim4-doc-html": ("GPL-2.0-or-later", 4, HTML),
    "imagemagick-6-doc": ("ImageMagick (Apache-2.0 style)", 4, HTML),
    "libreoffice-help-en-us": ("MPL-2.0", 8, HTML),
    "abs-guide": ("public domain", 4, HTML),
    # handbooks and prose
    "debian-handbook": ("GPL-2.0-or-later or CC-BY-SA-3.0", 4, r"usr/share/doc/debian-handbook/html/en-US/.*\.html$"),
    "debian-reference-en": ("GPL-2.0-or-later", 4, HTML),
    "debian-policy": ("GPL-2.0-or-later", 3, HTML),
    "developers-reference": ("GPL-2.0-or-later", 3, r"developers-reference/(?!de|fr|ja|ru|it).*\.html$"),
    "installation-guide-amd64": ("GPL-2.0-only", 3, r"/en/.*\.html$"),
    "debian-faq": ("own copyleft notice (modified versions under the same notice)", 2, HTML),
    "debian-history": ("GPL-2.0-or-later", 2, r"\.en\.html$|usr/share/doc/debian-history/(?!.*\.[a-z]{2}\.html).*\.html$"),
    "debian-edu-doc-en": ("GPL-2.0-or-later", 3, HTML),
    "debian-kernel-handbook": ("GPL-2.0-or-later", 2, HTML),
    "debmake-doc": ("MIT", 3, r"usr/share/doc/debmake-doc/html/.*\.html$"),
    "maint-guide": ("GPL-2.0-or-later", 2, HTML),
    "harden-doc": ("GPL-2.0-or-later", 3, r"\.en\.html$|/html/(?!.*\.(de|es|fr|it|ja|pt-br|ru)\.).*\.html$"),
    "apt-doc": ("GPL-2.0-or-later", 2, HTML),
    "aptitude-doc-en": ("GPL-2.0-or-later", 2, HTML),
    "doc-debian": ("GPL, Open Publication License 1.0, public domain", 2, r"usr/share/doc/debian/.*(\.txt(\.gz)?|\.html)$"),
    "freedombox-doc-en": ("CC-BY-SA-4.0, CC-BY-SA-3.0", 3, HTML),
    "gnome-user-docs": ("CC-BY-SA-3.0", 6, r"usr/share/help/C/.*\.(page|docbook|xml)$"),
    "anarchism": ("GPL-2.0-or-later", 16, HTML),
    "mh-book": ("GPL-2.0-or-later", 4, HTML),
    "cfi-en": ("public domain", 3, HTML),
    "bible-kjv-text": ("public domain", 6, r"usr/share/.*"),
    "jargon-text": ("public domain", 3, r"usr/share/.*jargon.*"),
    "dict-gcide": ("GPL-2.0-or-later", 18, r"\.dict\.dz$"),
    "dict-wn": ("WordNet (permissive)", 10, r"\.dict\.dz$"),
    "dict-devil": ("public domain", 2, r"\.dict\.dz$"),
    # games: stories, dialogue, descriptions
    "crawl-common": ("GPL-2.0-or-later", 3, r"usr/share/.*/descript/[a-z_]*\.txt$|usr/share/.*/database/[a-z_]*\.txt$"),
    "freedroidrpg-data": ("GPL-2.0-or-later", 3, r"dialogs/.*\.lua$"),
    "freeciv-data": ("GPL-2.0-or-later", 3, r"usr/share/games/freeciv/.*\.(ruleset|txt|serv)$"),
    "lincity-ng-data": ("GPL-2.0-or-later", 2, r"help/en/.*\.xml$"),
}
WESNOTH = "data did dm dw ei httt l low nr sof sota sotbe thot trow tsg ttb utbs".split()
for w in WESNOTH:
    PACKAGES[f"wesnoth-1.16-{w}"] = ("GPL-2.0-or-later", 5, r"\.cfg$|\.lua$")
TWICE = {"mh-book", "cfi-en", "jargon-text", "crawl-common", "debian-handbook", "debian-reference-en", "coreutils",
         "systemd", "util-linux", *(p for p in PACKAGES if p.startswith("wesnoth"))}   # good text, little of it
HELDOUT_TEXT = {"debian-reference-en", "bible-kjv-text", "systemd", "freebsd-manpages", "debian-policy",
                "wesnoth-1.16-httt", "debian-handbook", "abs-guide", "perl-doc", "wesnoth-1.16-utbs"}


def sh(*a, **k):
    return subprocess.run(a, check=True, capture_output=True, **k).stdout


def deb_of(work, pkg):
    found = glob.glob(f"{work}/deb/{pkg}_*.deb")
    return found[0] if found else None


# ------------------------------------------------------------------ converters: bytes -> list of texts
BLOCK = set("p div section article h1 h2 h3 h4 h5 h6 ul ol dl dt dd li table tr blockquote pre br hr title "
            "note item steps para simpara sect1 sect2 list term listitem td th".split())
SKIP = set("script style nav header footer head svg form button select info schema credit license link "
           "iframe noscript textarea math annotation desc".split())
SKIPCLASS = re.compile(r"\b(nav|navheader|navfooter|sidebar|sphinxsidebar|related|footer|header|toc|breadcrumb|menu|"
                       r"headerlink|search|navsetleft|navsettop|navsetbottom|tocset|versionbox|editsection|"
                       r"toctree-wrapper|highlight-none|linenos|chapter_nav|jump|aside)\b", re.I)


def from_html(data):
    from lxml import etree, html as lh
    if isinstance(data, str):
        data = data.encode()
    try:
        root = lh.fromstring(data, parser=lh.HTMLParser(encoding="utf-8", recover=True))
    except Exception:
        return []
    for best in ("//main", "//*[@role='main']", "//article", "//*[@id='content']", "//body"):
        hit = root.xpath(best)
        if hit:
            root = hit[0]
            break
    out = []

    def walk(e, pre):
        tag = e.tag
        if not isinstance(tag, str):
            if e.tail:
                out.append(e.tail if pre else re.sub(r"\s+", " ", e.tail))
            return
        tag = tag.split("}")[-1].split(":")[-1].lower()
        cls = (e.get("class") or "") + " " + (e.get("id") or "")
        if tag not in SKIP and not (cls.strip() and SKIPCLASS.search(cls)):
            block = tag in BLOCK
            inpre = pre or tag in ("pre", "screen", "programlisting", "code-block")
            if block:
                out.append("\n\n" if tag[0] == "h" or tag in ("p", "pre", "table", "dt", "para", "title") else "\n")
            if tag == "li" or tag == "item" or tag == "listitem":
                out.append("- ")
            if tag in ("td", "th"):
                out.append("  ")
            if e.text:
                out.append(e.text if inpre else re.sub(r"\s+", " ", e.text))
            for c in e:
                walk(c, inpre)
            if block and tag not in ("td", "th", "br", "dt"):
                out.append("\n\n" if tag in ("p", "pre", "table", "para") or tag[0] == "h" else "\n")
        if e.tail:
            out.append(e.tail if pre else re.sub(r"\s+", " ", e.tail))

    sys.setrecursionlimit(10000)
    tail, root.tail = root.tail, None
    try:
        walk(root, False)
    except RecursionError:
        return []
    text = "".join(out).replace("\u00b6", "").replace("\u00a0", " ")
    text = re.sub(r"(?m)^[ \t]*-[ \t]*\n\s*", "- ", text)
    return [text]


def from_xml(data):
    data = re.sub(rb"<\?xml[^>]*\?>|<!DOCTYPE[^>\[]*(\[.*?\])?\s*>", b"", data, flags=re.S)
    return from_html(b"<body>" + data + b"</body>")


def from_man(data, mandoc):
    p = subprocess.run(mandoc + ["-T", "utf8", "-O", "width=78"], input=data, capture_output=True)
    text = p.stdout.decode("utf8", "replace")
    text = re.sub(".\b", "", text)
    text = text.replace("\u2010", "-")
    return [text]


def from_pod(data):
    return from_podtext(data.decode("utf8", "replace"))


def from_podtext(t):
    t = re.sub(r"(?ms)^=begin.*?^=end.*?$", "", t)
    t = re.sub(r"(?m)^=for .*$|^=(encoding|cut|over|back|pod).*$", "", t)
    t = re.sub(r"(?m)^X<.*>$", "", t)
    for _ in range(3):
        t = re.sub(r"[XZ]<[^<>]*>", "", t)
        t = re.sub(r"L<(?:([^<>|]*)\|)?([^<>]*)>", lambda m: m.group(1) or m.group(2).strip("/"), t)
        t = re.sub(r"[BCFIS](?:<<+ (.*?) >>+|<([^<>]*)>)", lambda m: m.group(1) or m.group(2) or "", t)
    t = re.sub(r"E<(\w+)>", lambda m: html.unescape(f"&{m.group(1)};"), t)
    t = re.sub(r"(?m)^=item\s+", "- ", t)
    t = re.sub(r"(?m)^=head\d\s+", "", t)
    return [t]


def from_cfg(data):
    """Battle for Wesnoth: the translatable strings, dialogue with its speaker."""
    t = data.decode("utf8", "replace")
    t = re.sub(r"(?m)^\s*#.*$", "", t)
    out, speaker = [], None
    for m in re.finditer(r'(?:speaker\s*=\s*"?([^"\n]+)"?)|(?:_\s*"((?:[^"]|"")*)")', t):
        if m.group(1):
            speaker = m.group(1).strip()
            continue
        s = re.sub(r"<[^>]{1,60}>", "", m.group(2).replace('""', '"'))
        s = re.sub(r"^[a-z_ ]+\^", "", s).strip()
        s = re.sub(r"\s*\n\s*\n\s*", "\n\n", s)
        if len(s) > 3:
            if speaker and speaker not in ("narrator", "unit", "second_unit", "$unit.id"):
                s = f"{speaker}: {s}"
            out.append(s)
        speaker = None
    return ["\n\n".join(out)]


def from_lua(data):
    t = data.decode("utf8", "replace")
    s = [x.replace("\\n", "\n").replace('\\"', '"') for x in re.findall(r'_ ?"((?:[^"\\]|\\.){20,})"', t)]
    return ["\n".join(s)]


def from_dict(data, pkg):
    """dictd databases: entries begin in column 0 (gcide, wn) and are grouped here some forty to a document."""
    t = data.decode("utf8", "replace")
    t = re.sub(r"[{}]", "", t)
    if pkg == "dict-gcide":
        t = re.sub(r"(?m)^\s*\[(1913 Webster|PJC|WordNet[^\]]*|Webster 1913[^\]]*|[^\]\n]{0,40}(Suppl\.|PJC|Webster)[^\]\n]*)\]\s*$", "", t)
        t = re.sub(r"\s*\[(1913 Webster|PJC|WordNet [\d.]+)[^\]]*\]", "", t)
        t = re.sub(r"(?m) \\[^\\\n]{1,60}\\,?", ",", t)
    entries = re.split(r"\n(?=\S)", t)
    entries = [re.sub(r"\n\s*\n+", "\n", e).rstrip() for e in entries if len(e) > 30]
    if entries and "00-database" in t[:200]:
        entries = [e for e in entries if not e.startswith("00-database") and not e.startswith("00database")]
    return ["\n\n".join(entries[i:i + 40]) for i in range(0, len(entries), 40)]


def convert(pkg, path, data, mandoc):
    if path.endswith((".gz", ".dz")):
        try:
            data = gzip.decompress(data)
        except Exception:
            return []
        path = path[:-3]
    if pkg.startswith("dict-"):
        return from_dict(data, pkg)
    if "/man/" in path:
        if data.startswith(b".so "):
            return []
        return from_man(data, mandoc)
    if re.search(r"\.x?html?$", path):
        return from_html(data)
    if re.search(r"\.(page|docbook|xml)$", path):
        return from_xml(data)
    if path.endswith(".pod"):
        return from_pod(data)
    if path.endswith(".cfg"):
        return from_cfg(data)
    if path.endswith(".lua"):
        return from_lua(data)
    if path.endswith((".ruleset", ".serv")):
        t = data.decode("utf8", "replace")
        return ["\n\n".join(re.sub(r"\\\n", "", s).replace("\\n", "\n") for s in re.findall(r'_\("((?:[^"\\]|\\.|\\\n){40,})"\)', t, re.S))]
    if b"\0" in data[:2000]:
        return []
    return [data.decode("utf8", "replace")]


# ------------------------------------------------------------------ cleaning
ENGLISH = set("the of and to in a is that for it as with be on by this are or not from an at which if you can "
              "he his was they have but all will".split())


def clean(t):
    t = unicodedata.normalize("NFC", t).replace("\r", "").replace("\f", "\n").replace("\t", "    ")
    t = re.sub(r"[\u2018\u2019]", "'", re.sub(r"[\u201c\u201d]", '"', t))
    t = re.sub("[\u200b\u200e\u00ad\ufeff]", "", t)
    t = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", t)
    t = re.sub(r"[ ]+\n", "\n", t)
    t = re.sub(r"\n{3,}", "\n\n", t)
    t = re.sub(r"([-=_*.~#+])\1{12,}", lambda m: m.group(1) * 8, t)
    return t.strip()


def acceptable(t):
    if len(t) < 250:
        return False
    words = re.findall(r"[a-z']+", t[:20000].lower())
    if len(words) < 40:
        return False
    common = sum(w in ENGLISH for w in words) / len(words)
    alpha = sum(c.isalpha() or c == " " or c == "\n" for c in t[:20000]) / min(len(t), 20000)
    if sum(ord(c) > 0x250 and not 0x2000 <= ord(c) < 0x2c00 for c in t[:20000]) > 200:
        return False
    return common > 0.14 and alpha > 0.72


def mandoc_command(work):
    exe = f"{work}/mandoc/usr/bin/mandoc"
    if not os.path.exists(exe):
        sh("dpkg-deb", "-x", deb_of(work, "mandoc"), f"{work}/mandoc")
    return [exe]


def text_of(args):
    work, pkg = args
    lic, cap, pattern = PACKAGES[pkg]
    deb = deb_of(work, pkg)
    out_path = f"{work}/docs/{pkg}.jsonl"
    if not deb:
        return f"{pkg}: no package"
    if os.path.exists(out_path):
        return f"{pkg}: there"
    rx, mandoc = re.compile(pattern), mandoc_command(work)
    total = n = 0
    p = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE)
    with open(out_path + ".part", "w") as out:
        with tarfile.open(fileobj=p.stdout, mode="r|") as tar:
            for m in tar:
                path = m.name.lstrip("./")
                if not m.isfile() or not rx.search(path) or path.endswith(("/copyright", "genindex.html")) \
                        or "changelog" in path or m.size > 60e6 or re.search(r"(genindex|py-modindex|/search|_modules/|_sources|index-)", path):
                    continue
                if total > cap * 1e6:
                    break
                try:
                    texts = convert(pkg, path, tar.extractfile(m).read(), mandoc)
                except Exception as e:
                    continue
                if len(texts) > 1:     # a dictionary: an even sample of it
                    texts = texts[::max(1, round(sum(map(len, texts)) / (cap * 1e6)))]
                for t in texts:
                    t = clean(t)
                    if acceptable(t):
                        out.write(json.dumps({"p": pkg, "f": path, "t": t}) + "\n")
                        total += len(t)
                        n += 1
        p.stdout.close()
        p.wait()
    os.rename(out_path + ".part", out_path)
    return f"{pkg}: {n} documents, {total / 1e6:.2f} MB"


def bible(work):
    """bible-kjv-text: the text is a block-compressed file that only the package's own program reads."""
    out_path = f"{work}/docs/bible-kjv-text.jsonl"
    for pkg in ("bible-kjv-text", "bible-kjv"):
        sh("dpkg-deb", "-x", deb_of(work, pkg), f"{work}/bible")
    exe = f"{work}/bible/usr/bin/bible"
    data = [f for f in glob.glob(f"{work}/bible/usr/**/bible.data", recursive=True)]
    p = subprocess.run([exe, "-f", "-p", os.path.dirname(data[0])], input=b"Gen1:1-Rev22:21\n", capture_output=True)
    verses = re.findall(r"(?m)^([1-3A-Z][A-Za-z0-9]*?\s?\d+:\d+)\s+(.*)$", p.stdout.decode("utf8", "replace"))
    chapters = {}
    for ref, t in verses:
        book, cv = re.match(r"(.*?)\s?(\d+:\d+)$", ref).groups()
        chapters.setdefault((book, cv.split(":")[0]), []).append(re.sub(r"[{}\[\]]", "", t.strip()))
    with open(out_path, "w") as out:
        for (book, ch), vs in chapters.items():
            t = f"{book} {ch}\n\n" + "\n".join(" ".join(vs[i:i + 4]) for i in range(0, len(vs), 4))
            out.write(json.dumps({"p": "bible-kjv-text", "f": f"{book} {ch}", "t": clean(t)}) + "\n")
    return f"bible-kjv-text: {len(chapters)} chapters, {sum(len(t) for _, t in verses) / 1e6:.2f} MB"


def documents(work):
    """All documents after paragraph-level deduplication, in a fixed order."""
    seen = set()
    for pkg in PACKAGES:
        path = f"{work}/docs/{pkg}.jsonl"
        if not os.path.exists(path):
            continue
        for line in open(path):
            d = json.loads(line)
            keep = []
            for para in d["t"].split("\n\n"):
                key = re.sub(r"\W+", " ", para.lower()).strip()
                if len(key) > 50:
                    h = hashlib.blake2b(key.encode(), digest_size=8).digest()
                    if h in seen:
                        continue
                    seen.add(h)
                keep.append(para)
            t = "\n\n".join(keep).strip()
            if len(t) >= 250 and len(t) > 0.3 * len(d["t"]):
                d["t"] = t
                yield d


def is_heldout(d):
    return hashlib.blake2b((d["p"] + d["f"]).encode(), digest_size=4).digest()[0] < 2  # one in 128


# ------------------------------------------------------------------ tokenizer
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
REGEX = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
            "'<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def train_tokenizer(work, vocab):
    from tokenizers import Tokenizer, Regex, AddedToken, models, normalizers, pre_tokenizers, decoders, trainers
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(REGEX), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab - len(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    sample = (d["t"] for i, d in enumerate(documents(work)) if i % 4 == 0 and not is_heldout(d))
    tok.train_from_iterator(sample, trainer)
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    os.makedirs(f"{work}/tok", exist_ok=True)
    tok.save(f"{work}/tok/tokenizer.json", pretty=False)
    added = {str(tok.token_to_id(s)): {"content": s, "lstrip": False, "normalized": False, "rstrip": False,
                                       "single_word": False, "special": True} for s in SPECIAL}
    json.dump({"add_bos_token": False, "add_prefix_space": False, "added_tokens_decoder": added, "bos_token": None,
               "chat_template": TEMPLATE, "clean_up_tokenization_spaces": False, "eos_token": "<|endoftext|>",
               "errors": "replace", "model_max_length": 4096, "pad_token": "<|endoftext|>", "split_special_tokens": False,
               "tokenizer_class": "Qwen2Tokenizer", "unk_token": None},
              open(f"{work}/tok/tokenizer_config.json", "w"), indent=2)
    print("vocabulary", tok.get_vocab_size())


# ------------------------------------------------------------------ token files
def pack(work):
    import numpy as np
    from tokenizers import Tokenizer
    tok = Tokenizer.from_file(f"{work}/tok/tokenizer.json")
    end = tok.token_to_id("<|endoftext|>")
    os.makedirs(f"{work}/pack", exist_ok=True)
    docs = list(documents(work))
    order = sorted(range(len(docs)), key=lambda i: hashlib.blake2b((docs[i]["p"] + docs[i]["f"] + str(i)).encode(), digest_size=8).digest())
    train, again, held, stats, sample = [], [], [], {}, []
    for s in range(0, len(order), 512):
        batch = [docs[i] for i in order[s:s + 512]]
        for d, e in zip(batch, tok.encode_batch([d["t"] for d in batch])):
            ids = np.array(e.ids + [end], dtype=np.uint16)
            st = stats.setdefault(d["p"], [0, 0, 0])
            st[0] += 1
            st[1] += len(d["t"].encode())
            st[2] += len(ids)
            if is_heldout(d):
                held.append(ids)
            else:
                train.append(ids)
                if d["p"] in TWICE:
                    again.append(ids)
            if is_heldout(d) and d["p"] in HELDOUT_TEXT:
                sample.append(d)
    t, h = np.concatenate(train + again), np.concatenate(held)
    with lzma.open(f"{work}/pack/train.u16.xz", "wb", preset=4) as f:
        f.write(t.tobytes())
    h.tofile(f"{work}/pack/heldout.u16")
    parts, size, per = [], 0, {}
    for d in sample:                       # at most 24 KB a package, 190 KB in all
        text = d["t"][:8000]
        if per.get(d["p"], 0) + len(text.encode()) > 24000 or size + len(text.encode()) > 190000:
            continue
        per[d["p"]] = per.get(d["p"], 0) + len(text.encode())
        size += len(text.encode()) + 20
        parts.append(text)
    open(f"{work}/heldout.txt", "w").write("\n<|endoftext|>\n".join(parts) + "\n")
    json.dump({"train_tokens": int(len(t)), "heldout_tokens": int(len(h)), "packages": stats,
               "heldout_text_bytes_per_package": per}, open(f"{work}/pack/stats.json", "w"), indent=1)
    rows = []
    for pkg, st in stats.items():
        deb = os.path.basename(deb_of(work, pkg))
        ver = deb.split("_")[1].replace("%3a", ":")
        rows.append(f"| {pkg} | {ver} | {PACKAGES[pkg][0]} | {st[0]} | {st[1] / 1e6:.2f} |")
    open(f"{work}/licences.table", "w").write("| package | version | licence of the text | documents | MB |\n|---|---|---|---|---|\n" + "\n".join(sorted(rows)) + "\n")
    print(f"{len(t):,} training tokens, {len(h):,} held out; text {sum(s[1] for s in stats.values()) / 1e6:.1f} MB")


def main():
    cmd, work = sys.argv[1:3]
    if cmd == "fetch":
        os.makedirs(f"{work}/deb", exist_ok=True)
        for p in [*PACKAGES, "mandoc", "bible-kjv"]:
            if not deb_of(work, p):
                subprocess.run(["apt-get", "download", "-qq", p], cwd=f"{work}/deb")
    elif cmd == "text":
        os.makedirs(f"{work}/docs", exist_ok=True)
        mandoc_command(work)
        todo = [p for p in PACKAGES if p != "bible-kjv-text"]
        with ProcessPoolExecutor(2) as ex:
            for line in ex.map(text_of, [(work, p) for p in todo]):
                print(line, flush=True)
        print(bible(work))
    elif cmd == "tok":
        train_tokenizer(work, int(sys.argv[3]) if len(sys.argv) > 3 else 4096)
    elif cmd == "pack":
        pack(work)


if __name__ == "__main__":
    main()
