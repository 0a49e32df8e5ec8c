"""TCAV beside Captum's, seeded, and what is kept on disk."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import llm_attr.attr
import llm_attr.concept as ours
from llm_attr.errors import BrokenFile, InvalidValue

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import captum.attr
    import captum.concept as theirs
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning:captum"),
    pytest.mark.filterwarnings("ignore:Using default classifier"),
    pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning"),
]
LAYERS = ["0", "1"]
SETS = {"pairs": [[0, 1], [2, 1]], "three": [[0, 1, 2]], "both": [[1, 0], [2, 0, 1]]}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3)).eval()


def loader(number: int, count: int = 14) -> DataLoader:
    examples = torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(number)) + number / 2
    return DataLoader(examples, batch_size=5)


def concepts(library: Any = ours, count: int = 3) -> list[Any]:
    return [library.Concept(number, f"c{number}", loader(number, 14 + number)) for number in range(count)]


def inputs() -> Tensor:
    return torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(9))


def seeded() -> None:
    random.seed(1)
    np.random.seed(1)


@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("method", [None, "LayerIntegratedGradients"])
@pytest.mark.parametrize("sets", SETS)
def test_the_scores_are_captums(sets: str, method: str | None, to_input: bool, tmp_path: Path) -> None:
    found: list[Any] = []
    for library, attr in ((ours, llm_attr.attr), (theirs, captum.attr)):
        model, own = network(), concepts(library)
        attribution = getattr(attr, method)(model, None) if method else None
        layers = ["1", "3"] if to_input else LAYERS
        kept = {"save_path": str(tmp_path / library.__name__), "attribute_to_layer_input": to_input}
        tcav = library.TCAV(model, layers, layer_attr_method=attribution, **kept)
        chosen = [[own[number] for number in each] for each in SETS[sets]]
        seeded()
        options: dict[str, Any] = {"n_steps": 4} if method == "LayerIntegratedGradients" else {}
        found.append((tcav.interpret(inputs(), chosen, 1, **options), tcav.cavs))
    (scores, cavs), (captums, their_cavs) = found
    assert scores.keys() == captums.keys()
    for key, layers in captums.items():
        assert scores[key].keys() == layers.keys()
        for layer, each in layers.items():
            for name in ("sign_count", "magnitude"):
                torch.testing.assert_close(scores[key][layer][name], each[name], rtol=2e-4, atol=2e-5)
            weights = (made[key][layer].stats["weights"] for made in (cavs, their_cavs))
            torch.testing.assert_close(*weights, rtol=2e-4, atol=2e-4)


class Means(ours.Classifier, theirs.Classifier):
    """A classifier of one's own, for both libraries."""

    def __init__(self) -> None:
        self.kwargs: list[Any] = []

    def train_and_eval(self, dataloader: Any, **kwargs: Any) -> dict[str, Any]:
        rows, labels = (torch.cat(each) for each in zip(*dataloader, strict=True))
        self.kwargs.append(kwargs)
        self._classes = labels.unique().flip(0).tolist()
        self._weights = torch.stack([rows[labels == each].mean(0) for each in self._classes])
        return {"accs": torch.tensor(0.5), "examples": len(rows)}

    def weights(self) -> Tensor:
        return self._weights

    def classes(self) -> list[int]:
        return self._classes


def test_a_classifier_of_ones_own(tmp_path: Path) -> None:
    found = []
    for library in (ours, theirs):
        own, classifier = concepts(library), Means()
        tcav = library.TCAV(network(), LAYERS, "net", classifier, save_path=str(tmp_path / library.__name__), more=3)
        found.append(tcav.interpret(inputs(), [[own[2], own[0]], own], target=[0, 1, 2, 1, 0]))
        assert classifier.kwargs == [{"more": 3}] * 4
        assert tcav.cavs["2-0"]["0"].stats["examples"] == 30
        files = {file.stem for file in (tmp_path / library.__name__ / "net").iterdir()}
        assert files == {"2-0-0", "2-0-1", "0-1-2-0", "0-1-2-1"}
    for key, layers in found[1].items():
        for layer, each in layers.items():
            torch.testing.assert_close(found[0][key][layer], dict(each))


def test_the_accuracy_is_that_of_held_out_examples(tmp_path: Path) -> None:
    from sklearn.linear_model import SGDClassifier

    x, labels = torch.randn(40, 90), torch.tensor([3] * 20 + [1] * 20)
    x[:20] += 0.3
    classifier = ours.DefaultClassifier()
    found = classifier.train_and_eval([(x[:25], labels[:25]), (x[25:], labels[25:])], 0.4, seed=5)
    order = list(range(40))
    random.Random(5).shuffle(order)
    plain = SGDClassifier(alpha=0.01, max_iter=1000, tol=1e-3, random_state=5)
    plain.fit(x[order[16:]].double().numpy(), labels[order[16:]].numpy())
    assert classifier.classes() == [1, 3]
    torch.testing.assert_close(classifier.weights()[1], torch.from_numpy(plain.coef_[0]).float(), rtol=1e-4, atol=1e-5)
    assert found is not None
    assert float(found["accs"]) == pytest.approx(plain.score(x[order[:16]].numpy(), labels[order[:16]].numpy()))


def test_what_is_kept_is_read_again_until_something_changes(tmp_path: Path) -> None:
    model, own, passes = network(), concepts(), []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    state = torch.get_rng_state()

    def cavs(**changed: Any) -> dict[str, Any]:
        passes.clear()
        made = ours.TCAV(model, LAYERS, save_path=str(tmp_path), **{"seed": 0, **changed})
        return made.compute_cavs([own[:2]])["0-1"]

    first = cavs()
    assert len(passes) == 6  # a pass for each batch, for both layers
    again = cavs()
    assert not passes
    assert torch.equal(again["0"].stats["weights"], first["0"].stats["weights"])
    assert not torch.equal(cavs(alpha=1.0)["0"].stats["weights"], first["0"].stats["weights"])
    assert not passes  # activations are the same
    own[0].data_iter = loader(7)
    assert not torch.equal(cavs()["0"].stats["weights"], first["0"].stats["weights"])
    assert len(passes) == 3
    with torch.no_grad():
        model[0].weight.add_(0.1)
    cavs()
    assert len(passes) == 6
    assert torch.equal(torch.get_rng_state(), state)
    bare = [ours.Concept(concept.id, concept.name, None) for concept in own]
    stored = ours.TCAV(model, LAYERS, save_path=str(tmp_path))
    assert stored.load_cavs(bare[:2]) == ([], {})
    assert stored.load_cavs(own) == (LAYERS, dict.fromkeys(own, LAYERS))


def test_captums_files_are_read_when_asked_by_name(tmp_path: Path) -> None:
    own, their = concepts(), concepts(theirs)
    theirs.TCAV(network(), "0", save_path=str(tmp_path)).interpret(inputs(), [their[:2]], target=0)
    file = tmp_path / "default_model_id" / "0-1-0.pkl"
    assert ours.CAV.load(str(tmp_path), "default_model_id", own[:2], "0") is None
    cav = ours.CAV.load_pkl(file, own[:2])
    want = theirs.CAV.load(str(tmp_path), "default_model_id", their[:2], "0").stats["weights"]
    assert cav.stats is not None
    assert torch.equal(cav.stats["weights"], want)
    assert [str(each) for each in ours.CAV.load_pkl(file).concepts] == ["Concept(0, 'c0')", "Concept(1, 'c1')"]
    with pytest.raises(BrokenFile, match=r"is the CAV of the ids \[0, 1\]"):
        ours.CAV.load_pkl(file, own[1:])
    file.write_bytes(b"no")
    with pytest.raises(BrokenFile, match="holds no CAV of Captum"):
        ours.CAV.load_pkl(file)


@pytest.mark.slow
def test_processes_change_nothing(tmp_path: Path) -> None:
    own = concepts()
    found = [
        ours.TCAV(network(), LAYERS, save_path=str(tmp_path / str(processes)), seed=3).interpret(
            inputs(), [own[:2], own[1:]], 1, processes=processes
        )
        for processes in (None, 2)
    ]
    for key, layers in found[0].items():
        for layer, each in layers.items():
            torch.testing.assert_close(found[1][key][layer], each, rtol=0, atol=0)


def test_stored_activations(tmp_path: Path) -> None:
    path, data = str(tmp_path), TensorDataset(torch.randn(5, 1, 6, 6), torch.arange(5))
    model = network()
    found = ours.AV.generate_dataset_activations(path, model, "net", LAYERS, DataLoader(data, 2), "x", True, True)
    assert isinstance(found, list)
    assert [len(each) for each in found] == [3, 3]
    torch.testing.assert_close(torch.cat([found[0][i] for i in range(3)]), model[0](data.tensors[0]).detach())
    for number in ("2", "10"):
        ours.AV.save(path, "net", "y/z", "0", torch.full((1, 2), float(number)), number)
    assert [float(ours.AV.load(path, "net", "y/z", "0")[i][0, 0]) for i in range(2)] == [2, 10]
    asked = [("net",), ("other",), ("net", "y/z", "0", "10"), ("net", "y/z", "0", "3"), ("net", None, "1")]
    assert [ours.AV.exists(path, *each) for each in asked] == [True, False, True, False, True]


def test_a_layer_with_several_outputs_and_probes(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.mean(3), x.flatten(1)[:, :4] * 2

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.two = Two()

        def forward(self, x: Tensor) -> Tensor:
            first, second = self.two(x)
            return first.flatten(1).sum(1) + second.sum(1)

    own = concepts()
    for probe in ("mean_difference", "logistic"):
        classifier = ours.ProbeClassifier(probe)
        tcav = ours.TCAV(Net(), "two", classifier=classifier, save_path=str(tmp_path))
        found = tcav.interpret(inputs(), [[own[2], own[0]]])["2-0"]["two"]
        assert tcav.cavs["2-0"]["two"].stats["weights"].shape == (2, 10)
        assert found["sign_count"].tolist() == [1, 0]


def test_methods_without_a_target_and_models_of_one_number(tmp_path: Path) -> None:
    class Total(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).sum()

    model, own = Total(*network()), concepts()
    classifier = ours.ProbeClassifier()
    tcav = ours.TCAV(model, "0", classifier=classifier, save_path=str(tmp_path))
    found = tcav.interpret(inputs(), [[own[2], own[0]]])["2-0"]["0"]
    weights = tcav.cavs["2-0"]["0"].weights_of([own[2]])[0]
    direct = torch.autograd.functional.jacobian(lambda u: model[3](model[2](model[1](u))).sum(), model[0](inputs()))
    torch.testing.assert_close(found["magnitude"][0], (direct.flatten(1) @ weights).mean())
    method = llm_attr.attr.LayerActivation(model, None)
    tcav = ours.TCAV(model, "0", classifier=classifier, layer_attr_method=method, save_path=str(tmp_path))
    found = tcav.interpret(inputs(), [[own[2], own[0]]])["2-0"]["0"]
    scores = model[0](inputs()).detach().flatten(1) @ weights
    torch.testing.assert_close(found["magnitude"][0], scores.mean())
    with pytest.raises(InvalidValue, match=r"LayerActivation.attribute takes no target.*got 1"):
        tcav.interpret(inputs(), [own[:2]], target=1)
