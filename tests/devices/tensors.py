"""Everything that explains tensors, on a small model of two inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from llm_attr import attr, concept, influence, metrics, module, robust
from tests.contract.methods import ROWS, Row
from tests.contract.models import TwoInputs, two_inputs
from tests.devices.cases import Case
from tests.devices.placement import Placement

FIRST, SECOND = ("first", "second"), ("fuse", "head")
X = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(1))
Y = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(2))
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def model_at(placement: Placement) -> TwoInputs:
    return placement.put(two_inputs(), FIRST, SECOND)


def classifier(placement: Placement) -> nn.Module:
    """`(batch, 4)` to three classes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    return placement.put(model, ("0",), ("1", "2"))


def rows_at(placement: Placement) -> Tensor:
    return placement.tensor(X.flatten(1)[:, :4])


def asked(row: Row, placement: Placement) -> Any:
    """A method of one and of two inputs, the latter at both faces of a divided model for methods of layers."""
    model, x, y = model_at(placement), placement.tensor(X), placement.tensor(Y)
    with placement.within():
        method = row.of(model, model.layer)
        found = [row.ask(method, x, target=1, additional_forward_args=y), row.ask(method, (x, y), target=[0, 2])]
        if row.face != "input":
            found.append(row.ask(row.of(model, model.first[3]), x, target=1))
    return found


def influences(placement: Placement) -> Any:
    """Every method that needs no disk, with training data on the CPU."""
    model, generator = classifier(placement), torch.Generator().manual_seed(3)
    labels = torch.arange(8) % 3
    train = TensorDataset(torch.randn(8, 4, generator=generator), labels)
    tests = (placement.tensor(torch.randn(3, 4, generator=generator)), placement.tensor(labels[:3]))
    options: dict[str, Any] = {"loss_fn": nn.CrossEntropyLoss(reduction="none"), "batch_size": 4}
    last = {**options, "loss_fn": nn.CrossEntropyLoss(reduction="sum")}
    place = (train, ["now"], lambda *_: 1.0)
    curvature = {**options, "hessian_reg": 3.0, "hessian_inverse_tol": 1.0}
    methods = [
        influence.TracInCP(model, *place, **options),
        influence.TracInCPFast(model, model[2], *place, **last),
        influence.TracInCPFastRandProj(model, model[2], *place, **last),
        influence.NaiveInfluenceFunction(model, train, "now", place[2], **curvature),
        influence.ArnoldiInfluenceFunction(model, train, "now", place[2], **curvature, arnoldi_tol=1e-5),
    ]
    found = [method.influence(tests, k=None) for method in methods]
    return [*found, methods[0].influence(tests, k=2), *(method.self_influence() for method in methods)]


def concepts(placement: Placement) -> Any:
    """TCAV by each classifier, its significance, and similarity; examples lie on the CPU, inputs where the model is."""
    model, found = classifier(placement), list[Any]()
    made = [
        concept.Concept(n, f"c{n}", [torch.randn(9, 4, generator=torch.Generator().manual_seed(n)) + n / 4])
        for n in range(5)
    ]
    with TemporaryDirectory() as folder, placement.within():
        for kind, options in ((concept.DefaultClassifier, {"seed": 0}), (concept.ProbeClassifier, {})):
            tcav = concept.TCAV(model, ["0", "2"], kind.__name__, kind(), save_path=folder, **options)
            found.append(tcav.interpret(rows_at(placement), [made[:2], made[1:4]], target=1))
            found.append([cav.stats["weights"] for cav in tcav.cavs["0-1"].values()])
        judged = tcav.significance(rows_at(placement), made[:2], made[2:], target=0, score="magnitude")
        found.append([judged.scores, judged.chance, judged.low, judged.corrected])
        data = TensorDataset(made[0].data_iter[0])
        similar = influence.SimilarityInfluence(model, ["0", "2"], data, folder, batch_size=4)
        found.append(similar.influence(rows_at(placement), top_k=2))
    return found


def kept(row: Row, placement: Placement) -> Any:
    """Whether results have the precision and the device of what they are for, in every precision."""
    found = []
    for dtype in DTYPES:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)
        model = placement.put(model, (), ())
        result = row.ask(row.of(model, model[2]), placement.tensor(torch.ones(2, 3, 2, dtype=dtype)), target=0)
        found.append((result.dtype, result.device) == (dtype, placement.device))
    return found


def of_layer(kind: Callable[..., Any], **options: Any) -> Callable[[Placement], Any]:
    def run(placement: Placement) -> Any:
        model = model_at(placement)
        inputs = (placement.tensor(X), placement.tensor(Y))
        return [kind(model, layer).attribute(inputs, target=1, **options) for layer in (model.first[3], model.layer)]

    return run


def several_layers(placement: Placement) -> Any:
    """A layer on each half, and a place inside one: the results lie where the layers do."""
    model = model_at(placement)
    layers = [model.first[3], attr.Site(model.head[0])]
    return attr.LayerIntegratedGradients(model, layers).attribute(placement.tensor(X), target=1, n_steps=4)


def noisy(placement: Placement) -> Any:
    model = model_at(placement)
    inputs = (placement.tensor(X), placement.tensor(Y))
    kinds = attr.SUPPORTED_NOISE_TUNNEL_TYPES
    options: dict[str, Any] = {"nt_samples": 3, "stdevs": 0.2, "target": 1, "seed": 0}
    return [attr.NoiseTunnel(attr.Saliency(model)).attribute(inputs, nt_type=kind, **options) for kind in kinds]


def with_deltas(placement: Placement) -> Any:
    """What a sum misses, and what is known of a path."""
    model, x = classifier(placement), rows_at(placement)
    path = attr.IntegratedGradients(model)
    shap = attr.GradientShap(model)
    return [
        path.attribute(x, target=1, n_steps=4, return_convergence_delta=True),
        path.attribute(x, target=1, until=0.01, return_info=True)[1].gap,
        shap.attribute(x, torch.zeros_like(x), target=1, n_samples=3, seed=0, return_convergence_delta=True),
        attr.DeepLift(model).attribute(x, target=1, return_convergence_delta=True),
        attr.LRP(model).attribute(x, target=1, return_convergence_delta=True),
    ]


def with_errors(placement: Placement) -> Any:
    """Samples that go on until they are sure, remembered in a ledger."""
    model, x = classifier(placement), rows_at(placement)
    ledger = attr.Ledger()
    method = attr.PermutationShapley(model)
    options: dict[str, Any] = {"target": 1, "ledger": ledger, "return_stderr": True}
    return [method.attribute(x, n_samples=4, **options), method.attribute(x, until=0.2, **options)]


def masked(placement: Placement) -> Any:
    """Groups of features and baselines that the caller made, in every family of methods."""
    model, x = classifier(placement), rows_at(placement)
    mask, baselines = placement.tensor(torch.tensor([[0, 0, 1, 2]])), x.mean(0, keepdim=True)
    options: dict[str, Any] = {"baselines": baselines, "target": 1, "feature_mask": mask}
    kinds = (attr.FeatureAblation, attr.ShapleyValues, attr.Banzhaf, attr.KernelShap, attr.Owen, attr.ContextCite)
    return [kind(model).attribute(x, **options) for kind in kinds]


def over_data(placement: Placement) -> Any:
    model, x = classifier(placement), rows_at(placement)
    batches = [(x[:1], placement.tensor(torch.tensor([0]))), (x[1:], placement.tensor(torch.tensor([2])))]
    roles = [attr.InputRole.need_attr, attr.InputRole.no_forward]

    def reduce(sums: Any, output: Tensor, batch: Any) -> Tensor:
        right = output.gather(1, batch[1][:, None]).sum()
        return right if sums is None else sums + right

    method = attr.DataLoaderAttribution(attr.FeatureAblation(model))
    return method.attribute(batches, roles, reduce=reduce)


def drawing_data(placement: Placement) -> Any:
    """Each pass over the data draws the same noise where the model draws, and no stream of the caller's moves."""
    torch.manual_seed(0)
    model = placement.put(nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 1)).train(), ("0",), ("1",))
    x = placement.tensor(torch.ones(64, 4))
    method = attr.DataLoaderAttribution(attr.FeatureAblation(model))
    mask = placement.tensor(torch.zeros(1, 4, dtype=torch.int64))
    before = torch.rand(3, device=placement.device)
    torch.manual_seed(0)
    found = [method.attribute([(x,)], to_metric=Tensor.mean, feature_mask=mask)[0] for _ in range(2)]
    moved = torch.rand(3, device=placement.device)
    torch.manual_seed(0)
    again = torch.rand(3, device=placement.device)
    return [torch.equal(*found), torch.equal(moved, again), torch.equal(before, before)]


def surrogates(placement: Placement) -> Any:
    model, x = classifier(placement), rows_at(placement)
    kinds = ("SkLearnLasso", "SkLearnRidge", "SkLearnLinearRegression", "SGDLasso", "SGDRidge", "SGDLinearRegression")
    models = [getattr(attr, kind)() for kind in kinds] + [attr.SkLearnLinearModel("linear_model.ElasticNet")]
    close = attr.get_exp_kernel_similarity_function("euclidean", 2.0)
    return [
        attr.Lime(model, each, similarity_func=close).attribute(x, target=1, n_samples=12, seed=0) for each in models
    ]


def lime_base(placement: Placement) -> Any:
    model, x = classifier(placement), rows_at(placement)[:1]

    def draw(inputs: Tensor, **_: Any) -> Iterator[Tensor]:
        for row in torch.arange(16).unsqueeze(1) >> torch.arange(4) & 1:
            yield row[None].to(inputs)

    def same(sample: Tensor, inputs: Tensor, **_: Any) -> Tensor:
        return sample

    method = attr.LimeBase(
        lambda x: model(x)[:, 1], attr.SkLearnLinearRegression(), lambda *_, **__: 1.0, draw, False, None, same
    )
    return method.attribute(x, n_samples=16)


def summaries(placement: Placement) -> Any:
    x = rows_at(placement)
    stats = [*attr.CommonStats(), attr.Count(), attr.Max(), attr.Min(), attr.Sum(), attr.MSE(), attr.Var(order=1)]
    summary, by_class = attr.Summarizer(stats), attr.ClassSummarizer(attr.CommonStats())
    single = attr.SummarizerSingleTensor([attr.Mean(), attr.StdDev()], [0, 1])
    for row in (x, x * 2):
        summary.update(row)
        single.update(row)
        by_class.update(row, labels=placement.tensor(torch.tensor([0, 1])))
    return [summary.summary, by_class.summary, by_class.class_summaries, single.summary]


class Words(nn.Module):
    """Token ids and numbers to three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        return self.head(self.embedding(ids).sum(1) + numbers).tanh()


def words(placement: Placement) -> Any:
    """Methods of embeddings and what makes baselines for them."""
    torch.manual_seed(0)
    model = placement.put(Words().eval(), ("embedding",), ("head",))
    ids, numbers = placement.tensor(torch.tensor([[1, 2, 3]])), placement.tensor(X[:1].flatten(1)[:, :4])
    reference = attr.TokenReferenceBase(7).generate_reference(3, placement.device)[None]
    options: dict[str, Any] = {"additional_forward_args": numbers, "target": 1, "n_steps": 4}
    found = [attr.LayerIntegratedGradients(model, model.embedding).attribute(ids, reference, **options)]
    found += [attr.embedding_baseline(model.embedding, kind, like=ids) for kind in ("mean", "zero")]
    for path in (attr.SequentialIntegratedGradients, attr.DiscretizedIntegratedGradients):
        found.append(path(model, model.embedding).attribute(ids, reference, **options))
    wrapped = attr.ModelInputWrapper(model)
    layers = [wrapped.module.embedding, wrapped.input_maps["numbers"]]
    both = attr.LayerIntegratedGradients(wrapped, layers)
    found += both.attribute((ids, numbers), baselines=(0, 0.0), target=1, n_steps=4)
    layer = attr.configure_interpretable_embedding_layer(model, "embedding")
    embedded = layer.indices_to_embeddings(ids)
    found.append(attr.IntegratedGradients(model).attribute(embedded, **options))
    attr.remove_interpretable_embedding_layer(model, layer)
    return found


def by_rules(placement: Placement) -> Any:
    model, x = classifier(placement), rows_at(placement).abs()
    rules = (
        attr.Alpha1_Beta0_Rule(), attr.EpsilonRule(), attr.FlatRule(), attr.GammaRule(), attr.IdentityRule(),
        attr.WSquareRule(), attr.ZPlusRule(),
    )  # fmt: skip
    found = []
    for rule in rules:
        model[0].rule = rule
        found.append(attr.LRP(model).attribute(x, target=1))
    del model[0].rule
    return found


def attacked(placement: Placement) -> Any:
    """Attacks of one and of two inputs; draws come from the device's own stream, and so are only looked at."""
    model, x, y = model_at(placement), placement.tensor(X), placement.tensor(Y)
    steps: dict[str, Any] = {"radius": 0.2, "step_size": 0.1, "step_num": 3, "target": 1}
    found: list[Any] = [robust.FGSM(model, squares).perturb((x, y), 0.1, 1)]
    for norm in ("Linf", "L2"):
        mask = (torch.ones(3, 2), None)
        found.append(robust.PGD(model, squares).perturb((x, y), **steps, norm=norm, mask=mask, direction="gradient"))
        drawn = robust.PGD(model, squares).perturb(x, **steps, norm=norm, random_start=True, additional_forward_args=y)
        found.append(drawn.device == placement.device and bool(((drawn - x).abs() <= 0.2001).all()))
    return found


def squares(output: Tensor, target: int) -> Tensor:
    """A loss whose gradient is zero nowhere."""
    return output[:, target] + output.square().sum(1)


def searched(placement: Placement) -> Any:
    """Searches over a model's calls."""
    model, x = classifier(placement), rows_at(placement)
    target = model(x).argmax(1)
    search = robust.MinParamPerturbation(
        model, lambda x, by: x - by * x.sign(), "by", 0.0, 9.0, 0.25, mode="binary", num_attempts=2
    )
    comparator = robust.AttackComparator(model, lambda out: (out[:, 0], out.mean()))
    comparator.add_attack(robust.FGSM(model, squares), "fgsm", 3, attack_kwargs={"epsilon": 0.1, "target": 1})
    comparator.add_attack(lambda x: 2 * x, "twice", num_attempts=4)
    return [search.evaluate(x, target=target), comparator.evaluate(x), comparator.summary()]


def gated(placement: Placement) -> Any:
    """Gates in evaluation mode, and the gradient of what they cost."""
    x, found = rows_at(placement), []
    for kind in (module.BinaryConcreteStochasticGates, module.GaussianStochasticGates):
        gates = kind(3, mask=torch.tensor([0, 0, 1, 2])).to(placement.device)
        drawn = gates(x)[0]
        found.append(drawn.device == placement.device and bool((drawn.abs() <= x.abs()).all()))
        with torch.no_grad():
            for parameter in gates.parameters():
                parameter.copy_(torch.tensor([-0.4, 0.3, 0.8]))
        gates.eval()
        output, penalty = gates(x)
        (output.square().sum() + penalty).backward()
        found += [output, penalty, *(parameter.grad for parameter in gates.parameters()), gates.get_gate_active_probs()]
    return found


def judged(placement: Placement) -> Any:
    """Metrics of attributions of tensors, and of the model with random layers."""
    model, x = classifier(placement), rows_at(placement)
    explain = attr.InputXGradient(model).attribute
    attributions = explain(x, target=1)
    game = metrics.InputGame(model, x, target=1)
    names = (
        "comprehensiveness", "deletion", "insertion", "linear_datamodelling_score", "mas", "monotonicity", "rise",
        "soft_comprehensiveness", "soft_sufficiency", "sufficiency", "top_k_drop",
    )  # fmt: skip
    scores = [getattr(metrics, name)(attributions, game).values for name in names]
    tested = metrics.chance(metrics.deletion, attributions, game, permutations=3)
    alone = [metrics.sparseness(attributions).values, metrics.recovery_at_k(attributions, [1]).values]
    agreeing = metrics.rank_agreement(attributions, x)
    found = metrics.model_randomisation(model, lambda: explain(x, target=1))
    return [*scores, tested.permuted, *alone, agreeing.spearman, agreeing.kendall, found.spearman]


def perturbed(placement: Placement) -> Any:
    """Captum's metrics: one draws on the CPU, the perturbations of the other are given."""
    model, x = classifier(placement), rows_at(placement)

    @metrics.infidelity_perturb_func_decorator()
    def smaller(inputs: Tensor) -> Tensor:
        return inputs * 0.5

    explain = attr.InputXGradient(model).attribute
    attributions = explain(x, target=1)
    return [
        metrics.infidelity(model, smaller, x, attributions, target=1, normalize=True),
        metrics.sensitivity_max(explain, x, target=1),
        metrics.default_perturb_func(x, 0.1),
    ]


CASES = [
    Case(
        "metrics",
        judged,
        (
            "Agreement", "Chance", "CoalitionGame", "CurveScore", "FeatureGame", "InputGame", "Randomisation", "Score",
            "chance", "comprehensiveness", "deletion", "insertion", "linear_datamodelling_score", "mas",
            "model_randomisation", "monotonicity", "rank_agreement", "recovery_at_k", "rise", "soft_comprehensiveness",
            "soft_sufficiency", "sparseness", "sufficiency", "top_k_drop",
        ),
    ),
    Case(
        "perturbations",
        perturbed,
        ("default_perturb_func", "infidelity", "infidelity_perturb_func_decorator", "sensitivity_max"),
    ),
    Case("gradient attacks", attacked, ("FGSM", "PGD", "GradientPerturbation", "Perturbation")),
    Case(
        "searches",
        searched,
        (
            "AttackComparator", "AttackInfo", "MinParamPerturbation", "MinParamPerturbationMode", "agg_metric",
            "default_correct_fn", "drange",
        ),
    ),
    Case("gates", gated, ("BinaryConcreteStochasticGates", "GaussianStochasticGates", "StochasticGatesBase")),
    *(Case(row.name, partial(asked, row)) for row in ROWS),
    *(Case(f"{row.name}: precision and device", partial(kept, row), everywhere=False) for row in ROWS),
    Case("influence", influences),
    Case("concepts", concepts),
    Case("several layers", several_layers, ("Site",)),
    Case("every noise", noisy, ("SUPPORTED_NOISE_TUNNEL_TYPES",)),
    Case("convergence deltas", with_deltas, ("PathInfo",)),
    Case("standard errors", with_errors, ("Ledger",)),
    Case("masks and baselines", masked),
    Case("a data set", over_data, ("DataLoaderAttribution", "InputRole")),
    Case("a data set and a model that draws", drawing_data),
    Case(
        "every surrogate",
        surrogates,
        (
            "Model", "SGDLasso", "SGDLinearRegression", "SGDRidge", "SkLearnLasso", "SkLearnLinearModel",
            "SkLearnLinearRegression", "SkLearnRidge", "get_exp_kernel_similarity_function",
        ),
    ),
    Case("LimeBase", lime_base, ("LimeBase",)),
    Case(
        "statistics",
        summaries,
        (
            "ClassSummarizer", "CommonStats", "Count", "MSE", "Max", "Mean", "Min", "Stat", "StatValue", "StdDev",
            "Sum", "Summarizer", "SummarizerSingleTensor", "Var",
        ),
    ),
    Case(
        "embeddings",
        words,
        (
            "InterpretableEmbeddingBase", "ModelInputWrapper", "TokenReferenceBase",
            "configure_interpretable_embedding_layer", "embedding_baseline", "remove_interpretable_embedding_layer",
        ),
    ),
    Case(
        "every rule",
        by_rules,
        (
            "Alpha1_Beta0_Rule", "EpsilonRule", "FlatRule", "GammaRule", "IdentityRule", "PropagationRule",
            "WSquareRule", "ZPlusRule",
        ),
    ),
]  # fmt: skip

NOT_COMPUTED = {
    "Attribution": "abstract",
    "GradientAttribution": "abstract",
    "InternalAttribution": "abstract",
    "LayerAttribution": "abstract",
    "NeuronAttribution": "abstract",
    "PerturbationAttribution": "abstract",
    "RemoteLLMAttribution": "a server computes",
    "RemoteLLMProvider": "abstract",
    "VLLMProvider": "a server computes",
    "visualization": "draws NumPy arrays",
}
"""Public names of `llm_attr.attr` without a case, and why."""
