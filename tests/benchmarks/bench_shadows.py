"""Shadow models: many trainings of one recipe, against the plain loop and other libraries for the same job.

    python tests/benchmarks/bench_shadows.py [--threads 1] [--repeats 3] [--models 64] [--only forests]

Process time, so that other work on the machine counts little, but of forests, of which ours trains as many at once as
there are threads: wall clock. Medians over repeats, in which all take turns. "Loop" is
one plain PyTorch training after another, without the validation after each epoch and the early stopping that ours
does. Synthetic rows, 1200 of 8 columns. What is not installed is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from imaging.models.models import SimpleCNN
from privacy.likelihood import LiRA
from suite.core.attack import Leaked
from suite.core.data import Split
from suite.core.space import Space
from suite.defenses.plain import Plain
from suite.results.metrics import auroc
from suite.shadows.shadowing import Shadowing
from suite.training.loop import build
from suite.training.stack import fit_many
from tabular.models import DEEP, MLP, RandomForest

ROWS, EPOCHS, LR = 600, 100, 1e-2


def people() -> Split:
    from sklearn.datasets import make_classification

    x, y = make_classification(2 * ROWS, 8, n_informative=5, n_redundant=1, flip_y=0.15, random_state=0)
    x = (x - x.mean(0)) / x.std(0)
    return Split(x.astype(np.float32), y.astype(np.int64), Space(-20.0, 20.0), ("well", "ill"), np.arange(2 * ROWS))


def loop(trains: list[Split], batch: int) -> None:
    """One small network after another, as anybody would train them."""
    for k, train in enumerate(trains):
        network, generator = build(MLP(), (8,), 2, k)[1], torch.Generator().manual_seed(k)
        optimizer = torch.optim.AdamW(network.parameters(), LR)
        x, y = torch.from_numpy(train.x), torch.from_numpy(train.y)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(x), generator=generator).split(batch):
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(network(x[rows]), y[rows]).backward()
                optimizer.step()


def art_shadows(whole: Split, models: int, batch: int) -> Callable[[], object]:
    from art.attacks.inference.membership_inference import ShadowModels
    from art.estimators.classification import PyTorchClassifier

    class Trained(PyTorchClassifier):
        """ART's shadow models are trained with no way to say for how long."""

        def fit(self, x: np.ndarray, y: np.ndarray, **_: object) -> None:
            super().fit(x, y, batch_size=batch, nb_epochs=EPOCHS)

    network = build(MLP(), (8,), 2, 0)[1]
    estimator = Trained(network, torch.nn.CrossEntropyLoss(), (8,), 2,
                        optimizer=torch.optim.Adam(network.parameters(), LR), device_type="cpu")
    return lambda: ShadowModels(estimator, models, random_state=0).generate_shadow_dataset(whole.x, np.eye(2)[whole.y])


def sacro(whole: Split, models: int) -> Callable[[], object]:
    from sacroml.attacks.likelihood_attack import LIRAAttack
    from sacroml.attacks.target import Target
    from sklearn.ensemble import RandomForestClassifier

    x = whole.x.astype(np.float64)  # its logit does not survive a float32 probability of 1
    forest = RandomForestClassifier(100, random_state=0).fit(x[:ROWS], whole.y[:ROWS])
    target = Target(model=forest, dataset_name="synthetic", X_train=x[:ROWS], y_train=whole.y[:ROWS],
                    X_test=x[ROWS:], y_test=whole.y[ROWS:])

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:  # or it would take the models of the last run
            LIRAAttack(n_shadow_models=models, mode="online-carlini", output_dir=folder, write_report=False).attack(
                target)

    return run


def forests(whole: Split, models: int) -> Callable[[], object]:
    train, outside = whole.take(slice(ROWS)), whole.take(slice(ROWS, None))
    ask = Shadowing(DEEP, Plain(), np.arange(ROWS), np.arange(ROWS), train, outside, outside)
    return lambda: ask(models)


def convolutions(repeats: int) -> None:
    """Print what stacking small convolutional networks would gain over training them one after another: at the batches
    of our recipes nothing, which is why they are not stacked."""
    print("\nConvolutional networks, 28 x 28, a step of 8: time of one after another over that stacked by torch.func")
    for widths, batch in (((16, 32, 64), 8), ((16, 32, 64), 64), ((32, 64, 128), 64)):
        steps = [stacked_step(widths, batch) for _ in range(repeats + 1)][1:]
        name = "-".join(map(str, widths))
        print(f"  {name:<12} batches of {batch:<4}{statistics.median(steps):>6.2f} x", flush=True)


def stacked_step(widths: tuple[int, ...], batch: int) -> float:
    """Time of eight networks' gradients and steps one after another, over that of all at once; the third of each."""
    from torch.func import functional_call, grad, stack_module_state, vmap

    networks = [SimpleCNN(widths=widths).network((1, 28, 28), 2) for _ in range(8)]
    x, y = torch.rand(8, batch, 1, 28, 28), torch.randint(0, 2, (8, batch))
    weights = {name: torch.nn.Parameter(p) for name, p in stack_module_state(networks)[0].items()}
    alone = [torch.optim.AdamW(n.parameters(), LR, fused=True) for n in networks]
    together = torch.optim.AdamW(weights.values(), LR, fused=True)
    gradients = vmap(grad(lambda w, x, y: F.cross_entropy(functional_call(networks[0], w, (x,)), y)))
    for _ in range(3):
        start = time.process_time()
        for network, optimizer, rows, labels in zip(networks, alone, x, y, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(network(rows), labels).backward()
            optimizer.step()
        middle = time.process_time()
        for name, g in gradients({name: p.detach() for name, p in weights.items()}, x, y).items():
            weights[name].grad = g
        together.step()
        end = time.process_time()
    return (middle - start) / (end - middle)


def agreement(whole: Split, models: int) -> None:
    """Print how far our LiRA and SACRO-ML's agree about one forest, each with shadow models of its own."""
    from sacroml.attacks.likelihood_attack import LIRAAttack
    from sacroml.attacks.target import Target

    recipe, members = RandomForest(balanced=False), np.repeat([True, False], ROWS)
    train, outside = whole.take(slice(ROWS)), whole.take(slice(ROWS, None))
    model = recipe.fit(train, outside)
    ask = Shadowing(recipe, Plain(), np.arange(ROWS), np.arange(ROWS), train, outside, outside)
    ours = LiRA(models)(model, Leaked(train, outside, ask), whole.x, whole.y)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        attack = LIRAAttack(n_shadow_models=models, mode="online-carlini", output_dir=folder, write_report=False,
                            report_individual=True)
        attack.attack(Target(model=model.estimator, dataset_name="synthetic", X_train=train.x.astype(float),
                             y_train=train.y, X_test=outside.x.astype(float), y_test=outside.y))
    theirs = np.array(attack.result["member_prob"])
    print(f"\nLiRA on a random forest of depth 6, {models} shadow models of its own each: AUROC medsec "
          f"{auroc(ours, members):.3f}, SACRO {auroc(theirs, members):.3f}; rank correlation of the scores "
          f"{spearmanr(ours, theirs).statistic:.2f}", flush=True)


def compare(title: str, runs: dict[str, Callable[[], object]], bars: dict[str, float], repeats: int,
            clock: Callable[[], float] = time.process_time) -> None:
    """Print the time of each, and how many times longer than ours, with the bar where there is one."""
    print(f"\n{title}")
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = clock()
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                run()
            times[name].append(clock() - start)
    for name, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, times["medsec"], strict=True))
        bar = f"   bar {bars[name]:g} x: {'met' if ratio >= bars[name] else 'MISSED'}" if name in bars else ""
        print(f"  {name:<12}{statistics.median(taken):>8.2f} s{ratio:>8.2f} x ours{bar}", flush=True)


def peers(**made: Callable[[], Callable[[], object]]) -> dict[str, Callable[[], object]]:
    """Those of which the library is there."""
    found = {}
    for name, make in made.items():
        try:
            found[name] = make()
        except ImportError as e:
            print(f"{name} left out: {e}")
    return found


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--threads", type=int, default=1)
    ask.add_argument("--repeats", type=int, default=3)
    ask.add_argument("--models", type=int, default=64)
    ask.add_argument("--only", choices=("networks", "forests"))
    args = ask.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, {args.threads} thread(s), median of {args.repeats}")
    whole = people()
    if args.only != "forests":
        networks(whole, args)
    if args.only != "networks":
        compare(f"{args.models} random forests of 100 full trees, {ROWS} rows, and their answers about {2 * ROWS}; "
                "wall clock", {"medsec": forests(whole, args.models)} | peers(SACRO=lambda: sacro(whole, args.models)),
                {"SACRO": 2.0}, args.repeats, time.perf_counter)
        with contextlib.suppress(ImportError):
            agreement(whole, args.models)


def networks(whole: Split, args: argparse.Namespace) -> None:
    """Multi-layer perceptrons in stacks, and what stacking would do for convolutional networks."""
    rng = np.random.default_rng(0)
    trains = [whole.take(rng.permutation(2 * ROWS)[:ROWS]) for _ in range(args.models)]
    val = whole.take(slice(100))
    for batch, bars in ((128, {"loop": 4.0, "ART": 8.0}), (32, {"loop": 9.0})):
        recipe = MLP(epochs=EPOCHS, patience=EPOCHS, batch=batch, lr=LR)
        ours = {"medsec": lambda recipe=recipe: list(fit_many(recipe, trains, val, range(args.models)))}
        plain = {"loop": lambda batch=batch: loop(trains, batch)}
        beside = peers(ART=lambda batch=batch: art_shadows(whole, args.models, batch)) if batch == 128 else {}
        compare(f"{args.models} networks 8-64-64-2, {ROWS} rows, {EPOCHS} epochs, batches of {batch}",
                ours | plain | beside, bars, args.repeats)
    convolutions(args.repeats)


if __name__ == "__main__":
    main()
