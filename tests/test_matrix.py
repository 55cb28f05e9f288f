"""The matrix: what it holds, and every error by its text."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from repros.cells.matrix import AXES, COMPANIONS, PACKAGES, Cell, chosen_cells, load_matrix
from repros.cells.overrides import parse_override
from repros.errors import UserError

SHIPPED = Path(__file__).parent.parent / "matrix.yaml"

GOOD = """\
tiers:
  cpu: main
axes:
  torch: [2.13.0]
  transformers: [4.57.5, 5.2.0]
  bitsandbytes: [0.46.0, 0.49.2]
companions:
  4.57.5: {accelerate: 1.15.0, peft: 0.21.2, huggingface_hub: 0.36.2, tokenizers: 0.22.2}
  5.2.0: {accelerate: 1.15.0, peft: 0.21.2, huggingface_hub: 1.33.0, tokenizers: 0.22.2}
excludes:
  - when: {transformers: ">=5", bitsandbytes: "<0.46.1"}
    reason: too old
cells:
  - name: a
    tiers: [cpu]
    torch: 2.13.0
    transformers: 4.57.5
    bitsandbytes: 0.46.0
  - name: b
    tiers: [cpu]
    torch: 2.13.0
    transformers: 5.2.0
    bitsandbytes: 0.49.2
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "matrix.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def error_of(folder: Path, text: str) -> str:
    with pytest.raises(UserError) as caught:
        load_matrix(write(folder, text))
    return str(caught.value)


def test_good_matrix_is_read(tmp_path: Path) -> None:
    matrix = load_matrix(write(tmp_path, GOOD))
    cell = matrix.cell("b")
    assert tuple(cell.pins) == PACKAGES
    assert cell.pins["huggingface_hub"] == "1.33.0"
    assert cell.device == "cpu"
    assert matrix.tier("cpu") == matrix.cells
    assert cell.tiers == ("cpu",)
    assert [rule.reason for rule in matrix.excludes] == ["too old"]


RULE = 'excludes:\n  - when: {transformers: ">=5", bitsandbytes: "<0.46.1"}\n    reason: too old\n'
CELL_A = GOOD[GOOD.index("  - name: a") : GOOD.index("  - name: b")]

ERRORS = [
    (
        "    torch: 2.13.0\n    transformers: 5.2.0",
        "    torch: 2.9\n    transformers: 5.2.0",
        "cells[1].torch: `2.9` is not an exact pin",
        "write `2.9.0`",
    ),
    (
        "torch: [2.13.0]",
        "torch: ['>=2.9']",
        "axes.torch[0]: `>=2.9` is not an exact pin",
        "write `2.9.0`",
    ),
    (
        "torch: [2.13.0]",
        "torch: [2.10]",
        "axes.torch[0]: `2.10` is not an exact pin",
        "write `2.10.0`",
    ),
    (
        "torch: [2.13.0]",
        "torch: [new]",
        "axes.torch[0]: `new` is not an exact pin",
        "write `2.13.0`",
    ),
    (
        "torch: [2.13.0]",
        "torch: [2.13.0+cpu]",
        "axes.torch[0]: `2.13.0+cpu` names a build",
        "write `2.13.0`; the build is chosen on the host",
    ),
    ("torch: [2.13.0]", "torch: []", "axes.torch: no values", "list at least one release"),
    (
        "torch: [2.13.0]",
        "torch: 2.13.0",
        "axes.torch: `2.13.0` where a list belongs",
        "write `[a, b]` or `- a` lines",
    ),
    (
        "torch: [2.13.0]",
        "torch: [2.13.0, 2.13.0]",
        "axes.torch[1]: `2.13.0` is written twice",
        "remove one",
    ),
    ("  torch: [2.13.0]\n", "", "axes: no `torch`", "add `torch:`"),
    ("tiers:\n  cpu: main\n", "", "no `tiers`", "add `tiers:`"),
    (
        "tiers:\n  cpu: main\n",
        "tiers: [cpu]\n",
        "tiers: a list where a mapping belongs",
        "write `key: value` lines",
    ),
    (
        "  cpu: main",
        "  cpu:",
        "tiers.cpu: nothing where a text belongs",
        "write one value on this line",
    ),
    ("  cpu: main", "  CPU: main", "tiers: `CPU` is not a valid tier name", "use a-z, 0-9 and _"),
    (
        "  cpu: main",
        "  cpu: main\n  spare: none",
        "tiers.spare: no cell is in this tier",
        "add `spare` to the tiers of a cell",
    ),
    ("excludes:", "exclude:", "unknown key `exclude`", "did you mean `excludes`?"),
    (
        "    bitsandbytes: 0.49.2",
        "    bitsandbyte: 0.49.2",
        "cells[1]: unknown key `bitsandbyte`",
        "did you mean `bitsandbytes`?",
    ),
    (
        "    bitsandbytes: 0.49.2",
        "    bitsandbytes: 0.50.2",
        "cells[1].bitsandbytes: `0.50.2` is not on its axis",
        "add it to axes.bitsandbytes, or use one of 0.46.0, 0.49.2",
    ),
    (
        "huggingface_hub: 1.33.0, tokenizers: 0.22.2",
        "huggingface_hub: 1.33.0",
        "cells[1]: no pin for `tokenizers`",
        "add it to companions.5.2.0, or to this cell",
    ),
    (
        "peft: 0.21.2, huggingface_hub: 1.33.0",
        "peft: '*', huggingface_hub: 1.33.0",
        "companions.5.2.0.peft: `*` is not an exact pin",
        "write `2.13.0`",
    ),
    (
        "  5.2.0: {",
        "  5.3.0: {",
        "companions: unknown key `5.3.0`",
        "did you mean `5.2.0`?",
    ),
    (
        "  - name: b\n    tiers: [cpu]",
        "  - name: b\n    tiers: [cpus]",
        "cells[1].tiers[0]: unknown tier `cpus`",
        "did you mean `cpu`?",
    ),
    ("  - name: b", "  - name: a", "cells[1]: `a` is the name of cells[0] too", "rename one"),
    (
        "  - name: b",
        "  - name: B_b",
        "cells[1].name: `B_b` is not a valid cell name",
        "use a-z, 0-9, `.` and `-`",
    ),
    (
        CELL_A,
        CELL_A + CELL_A.replace("name: a", "name: c"),
        "cells[1]: the same pins and device as cells[0], `a`",
        "remove one, or change a pin",
    ),
    (
        "  - name: b",
        "  - name: b\n    device: tpu",
        "cells[1].device: unknown device `tpu`",
        "did you mean `cpu`?",
    ),
    (
        "    torch: 2.13.0\n    transformers: 5.2.0",
        "    torch: host\n    transformers: 5.2.0",
        "cells[1].torch: `host` on a CPU cell",
        "pin a release; `host` is for `device: cuda`",
    ),
    (
        "    bitsandbytes: 0.49.2",
        "    bitsandbytes: 0.46.0",
        "cells[1]: `b` matches excludes[0]: too old",
        "change its pins, or narrow excludes[0] (transformers >=5 and bitsandbytes <0.46.1)",
    ),
    ("    reason: too old\n", "", "excludes[0]: no `reason`", "add `reason:`"),
    (
        '{transformers: ">=5", bitsandbytes: "<0.46.1"}',
        "{}",
        "excludes[0].when: no condition",
        "name a package and a specifier",
    ),
    (
        '{transformers: ">=5", bitsandbytes: "<0.46.1"}',
        "{transformers: 5.2.0}",
        "excludes[0].when.transformers: `5.2.0` is not a specifier",
        "write `==5.2.0`",
    ),
    (
        '{transformers: ">=5", bitsandbytes: "<0.46.1"}',
        '{transformers: ">=5,<4"}',
        "excludes[0].when.transformers: `>=5,<4` matches no version at all",
        "the bounds contradict each other",
    ),
    (
        '{transformers: ">=5", bitsandbytes: "<0.46.1"}',
        '{transformers: ">=4"}',
        "excludes[0] matches every value of axes.transformers",
        "narrow excludes[0], or change axes.transformers",
    ),
    (
        '{transformers: ">=5", bitsandbytes: "<0.46.1"}',
        '{transformers: ">=5"}',
        "excludes[0] matches every cell with transformers 5.2.0",
        "narrow excludes[0], or change axes.transformers",
    ),
    (
        RULE,
        RULE
        + '  - when: {transformers: ">=5", device: cpu}\n    reason: x\n'
        + '  - when: {transformers: ">=5", device: cuda}\n    reason: y\n',
        "excludes[1] and excludes[2] together match every cell with transformers 5.2.0",
        "narrow excludes[1] or excludes[2], or change axes.transformers",
    ),
    (
        RULE,
        RULE
        + '  - when: {bitsandbytes: "<0.48"}\n    reason: x\n'
        + '  - when: {bitsandbytes: ">=0.48"}\n    reason: y\n',
        "excludes[1] and excludes[2] together match every value of axes.bitsandbytes",
        "narrow excludes[1] or excludes[2], or change axes.bitsandbytes",
    ),
    (
        RULE,
        RULE + RULE.removeprefix("excludes:\n"),
        "excludes[1]: says again what excludes[0] says",
        "remove one",
    ),
]


@pytest.mark.parametrize(("old", "new", "what", "hint"), ERRORS, ids=[case[2] for case in ERRORS])
def test_error_names_file_key_and_mend(tmp_path: Path, old: str, new: str, what: str, hint: str) -> None:
    assert GOOD.count(old) == 1
    text = error_of(tmp_path, GOOD.replace(old, new))
    place = f"matrix.yaml: {what}"
    assert text == f"{place}\nhint: {hint}"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("tiers:\n  cpu: [a\naxes:\n", "line 3, column 5: expected ',' or ']', but got ':'"),
        (
            "tiers:\n\tcpu: a\n",
            "line 2, column 1: found character '\\t' that cannot start any token",
        ),
        ("tiers:\n  cpu: a\n  cpu: b\n", "line 3, column 3: `cpu` is written twice"),
        ("a: b: c\n", "line 1, column 5: mapping values are not allowed here"),
    ],
)
def test_malformed_yaml_is_told_with_its_line(tmp_path: Path, text: str, what: str) -> None:
    hint = "fix the YAML there: indentation, quotes, a missing `:` or bracket"
    assert error_of(tmp_path, text) == f"matrix.yaml: {what}\nhint: {hint}"


def test_empty_file_missing_file_and_bad_bytes(tmp_path: Path) -> None:
    assert error_of(tmp_path, "").startswith("matrix.yaml: nothing where a mapping belongs")
    with pytest.raises(UserError, match=r"nowhere.yaml: No such file or directory\nhint: run from"):
        load_matrix(tmp_path / "nowhere.yaml")
    path = tmp_path / "matrix.yaml"
    path.write_bytes(b"a: \xff\n")
    with pytest.raises(UserError, match=r"matrix.yaml: byte 3 is not UTF-8\nhint: save it"):
        load_matrix(path)


def test_unknown_cell_and_tier_name_the_nearest(tmp_path: Path) -> None:
    matrix = load_matrix(write(tmp_path, GOOD))
    with pytest.raises(UserError) as cell:
        matrix.cell("zzz")
    assert str(cell.value) == "matrix.yaml: no cell `zzz`\nhint: one of: a, b"
    with pytest.raises(UserError) as tier:
        matrix.tier("cpuu")
    assert str(tier.value) == "matrix.yaml: no tier `cpuu`\nhint: one of: cpu"


def test_a_cell_may_override_a_companion(tmp_path: Path) -> None:
    text = GOOD.replace("  - name: b\n", "  - name: b\n    peft: 0.18.1\n")
    assert load_matrix(write(tmp_path, text)).cell("b").pins["peft"] == "0.18.1"


def test_shipped_matrix_covers_its_axes() -> None:
    matrix = load_matrix(SHIPPED)
    smoke, cpu, full = (matrix.tier(name) for name in ("smoke", "cpu", "full"))
    assert len(smoke) == 2
    assert len(cpu) >= 6
    assert set(smoke) < set(cpu) < set(full)
    assert {cell.pins["torch"] for cell in cpu} == {"2.13.0"}
    assert {"4.57.5", "5.2.0", "5.23.0"} <= {cell.pins["transformers"] for cell in cpu}
    for axis in AXES:
        used = {cell.pins[axis] for cell in (*full, *matrix.tier("gpu"))} - {"host"}
        assert used == set(matrix.axes[axis])
    assert len(matrix.tier("gpu")) >= 6
    assert len({cell.pins["torch"] for cell in full}) >= 3
    assert all(cell.device == "cuda" for cell in matrix.tier("gpu"))


def test_shipped_cells_separate_the_packages() -> None:
    """Each cell has a neighbour that differs in one axis and in what that axis demands."""
    cells = load_matrix(SHIPPED).tier("full")
    for cell in cells:
        differences = [
            [axis for axis in AXES if axis in cell.pins and cell.pins[axis] != other.pins[axis]]
            for other in cells
            if other is not cell
        ]
        assert any(len(axes) == 1 for axes in differences), cell.name
    assert len({(cell.pins["accelerate"], cell.pins["peft"]) for cell in cells}) == 1


def test_shipped_names_say_the_pins() -> None:
    """A name without a torch has the usual one; the host's own torch is that of a cell for a GPU."""
    for cell in load_matrix(SHIPPED).cells:
        torch = cell.pins["torch"]
        begins = {"2.13.0": "", "host": "gpu-"}.get(torch, f"torch{torch}-")
        assert cell.name == f"{begins}tf{cell.pins['transformers']}-bnb{cell.pins['bitsandbytes']}"


PIN = Cell("c", "cpu", {"torch": "2.13.0", "bitsandbytes": "0.49.2"}, ("cpu",))


def test_override_replaces_one_pin_and_is_remembered() -> None:
    cell = PIN.with_override("bitsandbytes", "==0.50.1").with_override("torch", ">=2.11,<2.13")
    assert cell.pins == {"torch": "<2.13,>=2.11", "bitsandbytes": "0.50.1"}
    assert cell.overrides == {"bitsandbytes": "0.50.1", "torch": "<2.13,>=2.11"}
    assert cell.label == "c with bitsandbytes=0.50.1, torch=<2.13,>=2.11"
    assert PIN.pins["bitsandbytes"] == "0.49.2"
    assert PIN.label == "c"


@pytest.mark.parametrize(
    ("spec", "kept"),
    [
        ("0.50.1", "0.50.1"),
        ("bitsandbytes==0.50.1", "0.50.1"),
        ("BitsAndBytes>=0.50", ">=0.50"),
        ("==0.50.*", "==0.50.*"),
        ("./checkout", "./checkout"),
        ("dist/x-1.0-py3-none-any.whl", "dist/x-1.0-py3-none-any.whl"),
        ("x-1.0-py3-none-any.whl", "x-1.0-py3-none-any.whl"),
        ("~/src/bitsandbytes", "~/src/bitsandbytes"),
    ],
)
def test_override_forms(spec: str, kept: str) -> None:
    assert parse_override("bitsandbytes", spec) == kept


ALL_FORMS = "write bitsandbytes=1.2.3, bitsandbytes=path/to.whl or bitsandbytes=path/to/checkout/"


@pytest.mark.parametrize(
    ("package", "spec", "what", "hint"),
    [
        ("bitsandbyte", "1", "the cells do not pin `bitsandbyte`", "one of: bitsandbytes, torch"),
        ("zzz", "1.0", "the cells do not pin `zzz`", "one of: torch, bitsandbytes"),
        ("bitsandbytes", "", "nothing after `=`", ALL_FORMS),
        (
            "bitsandbytes",
            "checkout",
            "`checkout` is neither a version nor a path",
            "write `./checkout` for a folder",
        ),
        ("bitsandbytes", "peft==1.0", "`peft==1.0` is neither a version nor a path", ALL_FORMS),
        ("bitsandbytes", "!!", "`!!` is neither a version nor a path", ALL_FORMS),
        (
            "bitsandbytes",
            "git+https://host/x",
            "`git+https://host/x` is a URL, whose content can change under one name",
            "download or clone it, and give the wheel or the folder",
        ),
    ],
)
def test_override_errors(package: str, spec: str, what: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        PIN.with_override(package, spec)
    assert str(caught.value) == f"--with {package}: {what}\nhint: {hint}"


def test_excluded_by_judges_an_override() -> None:
    matrix = load_matrix(SHIPPED)
    cell = matrix.cell("tf5.2.0-bnb0.49.2")
    assert matrix.excluded_by(cell.pins, cell.device) is None
    older = cell.with_override("bitsandbytes", "0.46.0")
    rule = matrix.excluded_by(older.pins, older.device)
    assert rule is not None
    assert str(rule) == "transformers >=5 and bitsandbytes <0.46.1"
    host = matrix.cell("gpu-tf5.2.0-bnb0.49.2")
    assert matrix.excluded_by(host.pins, host.device) is None


versions = st.tuples(*[st.integers(0, 30)] * 3).map(lambda parts: ".".join(map(str, parts)))


@settings(max_examples=50, deadline=None)
@given(chosen=versions, bound=versions)
def test_a_pin_comes_back_as_written_and_excludes_agree_with_pep440(
    tmp_path_factory: pytest.TempPathFactory, chosen: str, bound: str
) -> None:
    """Whatever the version, no YAML number parsing touches it, and `when` means the specifier."""
    document = yaml.load(GOOD, Loader=yaml.BaseLoader)
    document["axes"]["torch"] = [chosen]
    for cell in document["cells"]:
        cell["torch"] = chosen
    document["excludes"] = [{"when": {"torch": f"<{bound}"}, "reason": "old"}]
    path = write(tmp_path_factory.mktemp("m"), yaml.safe_dump(document))
    if SpecifierSet(f"<{bound}").contains(chosen, prereleases=True):
        with pytest.raises(UserError, match=r"excludes\[0\] matches every value of axes.torch"):
            load_matrix(path)
    elif bound == "0.0.0":
        pass  # `<0.0.0` is read as matching nothing or only pre-releases
    else:
        assert load_matrix(path).cell("a").pins["torch"] == chosen


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_no_text_raises_anything_but_a_user_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("m") / "matrix.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(UserError):
        load_matrix(path)


json_like = st.recursive(
    st.none() | st.booleans() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(section=st.sampled_from(["tiers", "axes", "companions", "excludes", "cells"]), value=json_like)
def test_any_shape_in_any_section_is_a_user_error_or_good(
    tmp_path_factory: pytest.TempPathFactory, section: str, value: object
) -> None:
    document = yaml.load(GOOD, Loader=yaml.BaseLoader)
    document[section] = value
    path = write(tmp_path_factory.mktemp("m"), yaml.safe_dump(document))
    try:
        load_matrix(path)
    except UserError as error:
        text = str(error)
    else:
        return
    assert text.startswith("matrix.yaml: ")
    assert len(text.splitlines()) == 2


def test_companions_are_named_once() -> None:
    assert set(PACKAGES) == {*AXES, *COMPANIONS}


@pytest.mark.parametrize("tier", ["smoke", "cpu", "gpu_smoke", "gpu"])
def test_a_tier_begins_with_its_newest_and_named_cells_stay_as_they_were_named(tier: str) -> None:
    matrix = load_matrix(SHIPPED)
    walked = ("transformers", "bitsandbytes")  # torch may be the host's
    ages = [[Version(cell.pins[name]) for name in walked] for cell in chosen_cells(matrix, tier, [], [])]
    assert ages == sorted(ages, reverse=True) and len(ages) > 1
    names = [cell.name for cell in matrix.tier(tier)]
    assert [cell.name for cell in chosen_cells(matrix, None, names, [])] == names
