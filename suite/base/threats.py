"""The threat catalog: what each kind of attack is called in the catalogs that regulators and security teams use."""

from __future__ import annotations

from dataclasses import dataclass

ATLAS_VERSION = "5.6.0"
"""Release of MITRE ATLAS that the technique ids below are from."""
NIST_EDITION = "NIST AI 100-2e2025"
OWASP_EDITION = "OWASP Machine Learning Security Top Ten, 2023 draft"


@dataclass(frozen=True)
class Threat:
    """One kind of attack.

    Attributes:
        title: Short name.
        meaning: What it means for a clinic, in one sentence.
        atlas, nist, owasp: Ids in MITRE ATLAS, NIST AI 100-2e2025 and the OWASP Machine Learning Top Ten.
    """

    title: str
    meaning: str
    atlas: tuple[str, ...]
    nist: tuple[str, ...]
    owasp: tuple[str, ...]

    @property
    def ids(self) -> list[str]:
        """All ids, for a measurement row."""
        return [*self.atlas, *self.nist, *self.owasp]


CATALOG: dict[str, Threat] = {
    "evasion": Threat(
        "Evasion", "A patient's values are changed a little so that the model decides otherwise.",
        ("AML.T0015", "AML.T0043.000"), ("NISTAML.022",), ("ML01",)),
    "evasion-query": Threat(
        "Evasion by queries", "The same, by someone who can only ask the model and see its answers.",
        ("AML.T0015", "AML.T0043.001"), ("NISTAML.025",), ("ML01",)),
    "transfer": Threat(
        "Transfer", "Values crafted against a look-alike model also fool this one.",
        ("AML.T0015", "AML.T0043.002"), ("NISTAML.025",), ("ML07",)),
    "poisoning": Threat(
        "Data poisoning", "Someone who can write training data makes the trained model worse, or blind to a disease.",
        ("AML.T0020",), ("NISTAML.013",), ("ML02",)),
    "backdoor": Threat(
        "Backdoor", "A planted combination of values makes the model answer what the attacker wants.",
        ("AML.T0018.000", "AML.T0043.004"), ("NISTAML.023",), ("ML10",)),
    "membership": Threat(
        "Membership inference", "The model's answers reveal that a person was among the training patients.",
        ("AML.T0024.000",), ("NISTAML.033",), ("ML04",)),
    "attribute": Threat(
        "Attribute inference", "The model's answers reveal a value that was not disclosed about a person.",
        ("AML.T0024.001",), ("NISTAML.032",), ("ML03",)),
    "inversion": Threat(
        "Model inversion", "A typical training patient of a class is reconstructed from the model.",
        ("AML.T0024.001",), ("NISTAML.032",), ("ML03",)),
    "reconstruction": Threat(
        "Training data reconstruction", "A training patient's whole row is rebuilt from the model and the other rows.",
        ("AML.T0024.001",), ("NISTAML.032",), ("ML03",)),
    "property": Threat(
        "Property inference", "What holds of a hospital's patients as a whole, such as how many have a disease, is "
        "learned from what it sends.", ("AML.T0024",), ("NISTAML.034",), ("ML03",)),
    "extraction": Threat(
        "Model extraction", "A working copy of the model is made from its answers.",
        ("AML.T0024.002",), ("NISTAML.031",), ("ML05",)),
    "supply-chain": Threat(
        "Supply chain", "A model or data set from elsewhere carries something harmful.",
        ("AML.T0010",), ("NISTAML.05", "NISTAML.051"), ("ML06",)),
}


def ids(keys: tuple[str, ...]) -> list[str]:
    """The catalog ids of several threats, in order, each once."""
    return list(dict.fromkeys(i for key in keys for i in CATALOG[key].ids))
