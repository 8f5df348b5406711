"""The plan of an audit: what is attacked, how, behind which defenses. Validated in full before any compute."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from suite.base.errors import InputError
from suite.base.limits import DEFAULT_TIME_LIMIT, SMALLEST_GROUP
from suite.base.registry import is_file

Modality = Literal["xray", "ct", "mri", "ultrasound", "dermoscopy", "microscopy", "other", "none"]
"""The kind of image, which decides what augmentation may change; "other" is one without rules of its own, and nothing
is changed for "none"."""

SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
"""Names that a plan gives: they can be typed in a list of names, and be part of a file name."""


class Item(BaseModel):
    """A model, attack, defense or detector of a plan: a name, hyper-parameters, and where it is used.

    In TOML either a string, or a table whose other keys are hyper-parameters: `{ name = "pgd", steps = 20 }`.

    Attributes:
        name: Registered, or `path/to/file.py:Object`; for a model also a file.
        use: Of a model or a defense: what is registered, where the name is one that the plan gives to it, as in
            `{ name = "dp-sgd-8", use = "dp-sgd", epsilon = 8 }`.
        title: What people read beside such a name.
        params: Hyper-parameters that differ from the defaults.
        rows: Test rows to attack at most: for attacks that are too slow for all. Of a detector, rows for the attack
            that knows it.
        models, defenses: Use it only with these; "none" stands for no defense.
        full: Left out of the first stage of an audit, and added by `--full`: what takes long and changes a verdict
            rarely.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    use: str | None = None
    title: str | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    rows: int | None = Field(default=None, ge=2)
    models: tuple[str, ...] | None = None
    defenses: tuple[str, ...] | None = None
    full: bool = False

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict):
            own = {k: value[k] for k in value.keys() & cls.model_fields.keys()}
            own["params"] = own.get("params", {}) | {k: v for k, v in value.items() if k not in own}
            return own
        return value

    @model_validator(mode="after")
    def _typed(self) -> Self:
        if self.use is not None and not SLUG.fullmatch(self.name) and not is_file(self.name):
            raise ValueError(f"name '{self.name}': cannot be typed in a list of names; use letters, digits and . _ + - "
                             "only, and put words for people into title")
        return self

    @property
    def source(self) -> str:
        """What is registered, or the file."""
        return self.use or self.name

    @property
    def slug(self) -> str:
        """The name as part of a file name."""
        return re.sub(r"[^A-Za-z0-9_.]+", "-", Path(self.name).name).strip("-.") or "x"


class Table(BaseModel):
    """How to read a user's CSV.

    Attributes:
        target: The column to predict.
        positive: The value of the target that is the disease, where there are two.
        schema_file: TOML schema; inferred from the data when absent.
        drop: Columns to leave out.
        group: Column that names the patient, so that no patient is on both sides of a split.
        split: Column that says which rows are for training, validation and test.
        test: CSV with the test rows; those of the file itself are then all for training.
        subgroups: Columns by which results are also broken down.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    target: str | None = None
    positive: str | None = None
    schema_file: Path | None = None
    drop: tuple[str, ...] = ()
    group: str | None = None
    split: str | None = None
    test: Path | None = None
    subgroups: tuple[str, ...] = ()


class Images(BaseModel):
    """How to read images: a folder of them, an `.npz` file, or a named set.

    Attributes:
        labels: CSV with one line for each image: `file` (its path in the folder; for an `.npz` instead `split` and
            `index`), and where known `label`, `patient`, `split` and columns for subgroups. Where it is left out,
            `labels.csv` in the folder or the `.csv` beside the `.npz` is read, if it is there.
        patient: Column of the CSV that names the patient; where it is left out, the one that is called
            `patient_id`, `Subject` or the like.
        positive: The class that is the disease, where there are two.
        finding: Name or number of the one finding to predict, where each image is labelled with several.
        subgroups: Columns of the CSV by which results are also broken down, besides age, sex, site and the like.
        modality: The kind of image, by which networks augment what they learn from; of named sets it is known.
        size: Height and width in pixels to which images are resized; as they are when absent.
        channels: 1 (grey) or 3 (colour); as they are when absent.
        window: Center and width of the values of DICOM and NIfTI files that are kept, black to white; when absent,
            from the 0.5th to the 99.5th percentile of each image.
        slices: Middle axial slices of each NIfTI volume.
        allow_leakage: Accept a split in which one patient is on both sides.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    labels: Path | None = None
    patient: str | None = None
    positive: str | None = None
    finding: str | None = None
    subgroups: tuple[str, ...] = ()
    modality: Modality | None = None
    size: int | None = Field(default=None, ge=8, le=1024)
    channels: Literal[1, 3] | None = None
    window: tuple[float, float] | None = None
    slices: int = Field(default=1, ge=1, le=1024)
    allow_leakage: bool = False

    @field_validator("window")
    @classmethod
    def _width(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not value[1] > 0:
            raise ValueError("a window is [center, width], and the width is above 0")
        return value

    @property
    def said(self) -> dict[str, Any]:
        """What was asked for: the values that are not the defaults."""
        return self.model_dump(exclude_defaults=True)

    def refuse(self, why: str, *keys: str) -> None:
        """`InputError` where one of these keys was asked for, which would be ignored; `why` names the data."""
        for key in keys:
            if key in self.said:
                raise InputError(f"{why}, so that '{key}' means nothing")


class Ladder(BaseModel):
    """Budgets in one norm.

    Attributes:
        eps: The budget at which findings are stated.
        budgets: Rising budgets of the robustness curves; `eps` is one of them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    eps: float = Field(gt=0)
    budgets: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _main_budget(self) -> Ladder:
        if not all(budget > 0 for budget in self.budgets):
            raise ValueError("budgets must be greater than 0")
        object.__setattr__(self, "budgets", tuple(sorted({*self.budgets, self.eps})))
        return self


class Plan(BaseModel):
    """What `medsec audit` does.

    Attributes:
        title: Heading of the report.
        data: Dataset names or files, in order of preference: the first that is available runs, and the report says so.
        table: How to read a CSV.
        images: How to read images.
        models, attacks, defenses: What is trained, attacked and compared. Every model also runs without a defense.
        detectors: What looks for the evasion attacks that succeeded.
        eps: The budget at which findings are stated, in units of each feature's scale.
        budgets: Rising budgets of the robustness curves; `eps` is one of them.
        norms: Budgets of attacks in other norms: "l2" (the same as Linf where it is left out) and "l0" (features or
            pixels).
        rows: Test rows to attack at most; all when absent.
        hospitals: How all rows are dealt out to hospitals (a registered partition), for defenses that train at several;
            one pool when absent. Subgroup "hospital" then names each row's.
        train_rows: Training rows to learn from at most, a random choice; all when absent. The fewer, the better a model
            remembers each.
        seed: Of everything random.
        device: Any device that PyTorch knows, such as "cuda:1"; "auto" is CUDA, else XPU, else the CPU.
        allow_pickle: Load model files that can execute code; from the command line only, as `suite.audit.request` sees
            to.
        later: Names of attacks, defenses and detectors that this stage leaves to `--full`; not set in a file.
        time_limit: Seconds that a fitted model may take for its trial and for each query. No part of what a run is, so
            that it goes on with another one.
        pictures: Keep and show images of real patients that attacks succeeded on; from the command line only. Of
            synthetic data they always are.
        smallest_group: People below which nothing is written about a subgroup; below `SMALLEST_GROUP` from the command
            line only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    title: str = "Security audit"
    data: tuple[str, ...] = Field(min_length=1)
    table: Table = Table()
    images: Images = Images()
    models: tuple[Item, ...] = Field(min_length=1)
    attacks: tuple[Item, ...] = ()
    defenses: tuple[Item, ...] = ()
    detectors: tuple[Item, ...] = ()
    eps: float = 0.05
    budgets: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2)
    norms: dict[Literal["l2", "l0"], Ladder] = Field(default_factory=dict)
    hospitals: Item | None = None
    rows: int | None = Field(default=None, ge=2)
    train_rows: int | None = Field(default=None, ge=2)
    seed: int = Field(default=0, ge=0, lt=2**31)
    device: str = "auto"
    allow_pickle: bool = False
    later: tuple[str, ...] = ()
    time_limit: float = Field(default=DEFAULT_TIME_LIMIT, gt=0, le=86400, exclude=True)
    pictures: bool = False
    smallest_group: int = Field(default=SMALLEST_GROUP, ge=1)

    @field_validator("data", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("device")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ("auto", "cpu", "cuda"):
            import torch  # which takes seconds, and most plans need it later only

            try:
                torch.device(value)
            except RuntimeError:
                raise ValueError(f"PyTorch knows no device {value!r}; use auto, cpu, or a device such as cuda, cuda:1 "
                                 "or xpu") from None
        return value

    @field_validator("eps")
    @classmethod
    def _share(cls, value: float) -> float:
        if not 0 < value <= 1:
            raise ValueError("must be a finite number above 0 and at most 1")
        return value

    @field_validator("budgets")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or not all(0 < budget <= 1 for budget in value):
            raise ValueError("budgets must be greater than 0 and at most 1")
        return tuple(sorted(set(value)))

    @field_validator("norms")
    @classmethod
    def _whole(cls, value: dict[str, Ladder]) -> dict[str, Ladder]:
        if "l0" in value and value["l0"].budgets[0] < 1:
            raise ValueError(f"l0 counts what is changed, so that budgets start at 1, got {value['l0'].budgets[0]:g}")
        return value

    @field_validator("attacks", "detectors")
    @classmethod
    def _own_names(cls, value: tuple[Item, ...]) -> tuple[Item, ...]:
        for item in value:
            if item.use:  # a report looks them up by their names
                raise ValueError(f"'{item.name}': only models and defenses can be given another name")
        return value

    @field_validator("models", "defenses", "detectors")
    @classmethod
    def _distinct(cls, value: tuple[Item, ...]) -> tuple[Item, ...]:
        if renamed := next((item for item in value if item.use and item.name == "none"), None):
            raise ValueError(f"'{renamed.use}' cannot be called none, which stands for no defense")
        slugs = [item.slug for item in value]
        for item in value:
            if slugs.count(item.slug) > 1:  # rows and files are told apart by it
                raise ValueError(f"'{item.slug}' is there twice")
        return tuple(item for item in value if item.name != "none")

    @model_validator(mode="after")
    def _main_budget(self) -> Plan:
        if self.eps not in self.budgets:
            object.__setattr__(self, "budgets", tuple(sorted({*self.budgets, self.eps})))
        for kind in ("attacks", "defenses", "detectors"):
            for item in getattr(self, kind):
                for wanted in item.models or ():
                    if wanted not in {m.name for m in self.models}:
                        raise ValueError(f"{kind}: '{item.name}' is for model '{wanted}', which the plan does not have")
                for wanted in item.defenses or ():
                    if wanted not in {"none", *(d.name for d in self.defenses)}:
                        raise ValueError(f"{kind}: '{item.name}' is for defense '{wanted}', "
                                         "which the plan does not have")
        return self

    @classmethod
    def check(cls, value: dict[str, Any], where: str, flags: Collection[str] = ()) -> Plan:
        """Validate; `InputError` names the key, and `where` it is from unless it is one of the `flags`."""
        try:
            return cls.model_validate(value)
        except ValidationError as e:
            first = e.errors()[0]
            keys = ".".join(str(k) for k in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            if first["type"] == "extra_forbidden":
                sections = {"table": Table, "images": Images}
                known = sections.get(first["loc"][0], cls).model_fields
                near = difflib.get_close_matches(str(first["loc"][-1]), known, 1)
                message = "no such key" + (f"; did you mean '{near[0]}'?" if near else "")
            if first["loc"] and first["loc"][0] in flags:
                where = "command line"
            raise InputError(f"{where}: {keys + ': ' if keys else ''}{message}") from None

    def dump(self) -> dict[str, Any]:
        """As plain JSON values, defaults included."""
        return self.model_dump(mode="json")

    def extends(self, other: Plan) -> bool:
        """Whether a run of `other` can go on as a run of this plan: it asks for everything that `other` does, in the
        same order and on the same terms, and for further attacks, defenses or detectors."""
        lists = ("models", "attacks", "defenses", "detectors")
        same = {"exclude": {*lists, "later"}}
        if self.model_dump(**same) != other.model_dump(**same):
            return False
        return all(_continues(getattr(self, kind), getattr(other, kind)) for kind in lists)

    def quick(self) -> Plan:
        """A smaller audit of the same kind: few rows, one budget, and slow attacks on fewer rows still.

        The rows of an attack that has no number of its own are those of the plan, which a membership attack by shadow
        models does not heed (`suite.evaluate.membership`): its cost is their training.
        """
        attacks = tuple(a.model_copy(update={"rows": 10}) if a.rows and a.rows > 10 else a for a in self.attacks)
        norms = {norm: Ladder(eps=ladder.eps) for norm, ladder in self.norms.items()}
        return self.model_copy(update={"attacks": attacks, "rows": 40, "budgets": (self.eps,), "norms": norms,
                                       "title": f"{self.title} (quick)"})


def _continues(items: tuple[Item, ...], earlier: tuple[Item, ...]) -> bool:
    """Whether the earlier items are among the items; of several with one name, which are told apart by their order,
    they come first. With which models and defenses an item is used may have grown with these."""
    def of(name: str, among: tuple[Item, ...]) -> list[Item]:
        return [item.model_copy(update={"models": None, "defenses": None}) for item in among if item.name == name]

    return all(of(item.name, items)[:len(of(item.name, earlier))] == of(item.name, earlier) for item in earlier)


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary; `InputError` names the file and the line."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"plan {path}: no such file") from None
    except RecursionError:
        raise InputError(f"plan {path}: is nested too deeply; a plan has tables inside lists, no deeper") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise InputError(f"plan {path}: {e}") from None
