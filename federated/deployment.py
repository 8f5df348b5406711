"""The federation as a Flower app, which `flwr run` starts in Flower's simulation or at hospitals of their own.

Client and server run the code that runs in one process (`federated.client_app.hospital`, `federated.server_app.rounds`
past `federated.grid.Border`). What all have agreed on travels with the app: `[tool.flwr.app.config]` of its
`pyproject.toml`, and `schema.toml` beside it. Rows never do: each hospital reads its own file, named in the
configuration of its own SuperNode, and the server has none. `examples/federation_app` is such an app.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError, field_validator

from federated import secure
from federated.aggregate import Bulyan, CenteredClipping, GeometricMedian, Krum, Mean, Median, MultiKrum, TrimmedMean
from federated.client_app import hospital
from federated.grid import Border
from federated.journal import Journal
from federated.roster import Roster
from federated.server_app import Joined, rounds
from federated.task import Task
from suite import artifacts, registry
from suite.data import Dataset, Split
from suite.errors import InputError
from suite.recipe import TorchRecipe
from suite.registry import make_of
from tabular.data import from_csv
from tabular.schema import Schema
