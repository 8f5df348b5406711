"""How a plan names what joins the updates of hospitals: a registered rule, rules within rules, or a Flower strategy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import flwr.serverapp.strategy as flower
from flwr.serverapp.strategy import FedAvg

from federated.aggregation.aggregate import Aggregator
from suite.base import registry
from suite.base.bounds import NonNegative
from suite.base.errors import InputError
from suite.base.info import Info

PAPERS = {"FedAdam": "Reddi et al. 2021, arXiv 2003.00295", "FedYogi": "Reddi et al. 2021, arXiv 2003.00295",
          "FedAdagrad": "Reddi et al. 2021, arXiv 2003.00295", "FedAvgM": "Hsu, Qi and Brown 2019, arXiv 1909.06335"}
Spec = str | dict[str, Any]
"""A rule's registered name, or `{"name": ..., parameters}`, where `then` is again one of these."""


@dataclass(frozen=True)
class FlowerStrategy:
    """A strategy of Flower's own that does more with the mean of the replies than to take it.

    Attributes:
        strategy: Its class in `flwr.serverapp.strategy`.
        options: Its arguments, as `{"eta": 0.01}`.
    """

    strategy: Literal["FedAdam", "FedYogi", "FedAdagrad", "FedAvgM"]
    options: dict[str, NonNegative] = field(default_factory=dict)

    @property
    def info(self) -> Info:
        """For lists."""
        return Info(f"{self.strategy} (Flower's own)", PAPERS[self.strategy], cost="one read of the updates")

    def made(self, sites: int) -> FedAvg:
        """A strategy for one federation of so many hospitals, which all take part in every round.

        Raises:
            InputError: An option that it does not have.
        """
        try:
            return getattr(flower, self.strategy)(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=sites,
                                                  **self.options)
        except TypeError as e:
            raise InputError(f"{self.strategy}: {e}") from None

    def tolerates(self, n: int) -> int:
        """As of `Aggregator`: it takes a mean."""
        return 0


def rule_of(spec: Spec) -> Aggregator | FlowerStrategy:
    """The rule that a plan names.

    Raises:
        InputError: An unknown name, or a parameter that does not exist or has the wrong type.
    """
    name, params = (spec, {}) if isinstance(spec, str) else (spec.get("name", ""), dict(spec))
    params.pop("name", None)
    if not name:
        raise InputError(f"an aggregation needs a name, and {spec} has none")
    if "then" in params:
        params["then"] = rule_of(params["then"])
    return registry.make("aggregations", name, params)


FED_ADAM, FED_YOGI, FED_ADAGRAD, FED_AVGM = map(FlowerStrategy, PAPERS)
