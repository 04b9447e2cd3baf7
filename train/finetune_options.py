"""The options of fine-tuning, read as those of pretraining are."""

import dataclasses
from typing import Annotated, Any, ClassVar

from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaError
from modeling_ecg_jepa.leads_ecg_jepa import canonical_leads

from .augmentations import DEFAULT, RandAugment
from .options import PRECISIONS, CorpusChoice, require

#: Problem -> what transformers calls it.
PROBLEMS = {
    "multi_label": "multi_label_classification",
    "single_label": "single_label_classification",
    "regression": "regression",
}

#: What PTB-XL's options are where none is given: five classes, the small files.
_OF_PTB_XL = {"label_set": "superdiagnostic", "files": 100}

#: Options that may change when a run goes on: they decide neither data nor arithmetic of the training.
FREE_OPTIONS = frozenset("output_dir overwrite resume_from_checkpoint test resamples cpu_threads num_workers".split())


@dataclasses.dataclass(frozen=True)
class FinetuneOptions:
    """Everything that a run is told. The defaults are the authors' recipe (arXiv 2410.08559).

    Raises:
        EcgJepaConfigError: a value that describes no run.
    """

    #: How `--help` begins and ends.
    HELP: ClassVar[dict[str, str]] = {
        "prog": "python -m train.finetune",
        "description": "Fine-tune ECG-JEPA on labels or measurements, by the authors' recipe unless told otherwise. "
        "Leaves a folder that AutoModelForSequenceClassification loads, with label names and with thresholds chosen on "
        "validation.",
        "epilog": "Everything is chosen on the validation part; look at --test once, for the report. Exit codes: 0 "
        "good, 1 error, 2 usage, 3 done without some records. Also accelerate launch -m, and torchrun --nproc_per_node "
        "N -m. Example: python -m train.finetune --model runs/mine --corpus ptb_xl --data_dir path/to/ptb-xl "
        "--label_set superdiagnostic --output_dir runs/superclasses --test",
    }

    model: Annotated[str | None, "run", "checkpoint folder, or a name on the Hub; needed"] = None
    output_dir: Annotated[str, "run", "folder for the model, results.json and the checkpoints"] = "runs/finetuned"
    overwrite: Annotated[bool, "run", "replace the run that is in the output folder"] = False
    seed: Annotated[int, "run", "new weights, order of records, augmentations, draws of train_fraction"] = 0
    resume_from_checkpoint: Annotated[
        str | None, "run", "go on from this checkpoint-STEP folder, or with `latest` from the newest, if there is one"
    ] = None
    test: Annotated[
        bool, "run", "also read and report the test part: once, when all is chosen (also afterwards, when resumed)"
    ] = False
    resamples: Annotated[int, "run", "resamples of patients for the 95% intervals"] = 1000
    mixed_precision: Annotated[str, "run", "no, bf16 or fp16 (GPUs only)"] = "no"
    cpu_threads: Annotated[int | None, "run", "on a CPU: threads a process; all cores, shared, if not given"] = None

    corpus: Annotated[
        CorpusChoice | None,
        "data",
        "labelled corpus: NAME, NAME:FOLDER, `prepared:FOLDER` of ecg-jepa prepare, or '{name: NAME, OPTION: VALUE}', "
        "for instance your own records: '{name: wfdb_folder, data_dir: FOLDER, table: labels.csv, label_columns: [AF, "
        "MI], patient_column: patient}'; its parts are train, validation and test (of PTB-XL folds 1-8, 9, 10); ptb_xl "
        "if not given",
    ] = None
    data_dir: Annotated[str | None, "data", "folder of the corpus; downloaded if not given"] = None
    label_set: Annotated[str | None, "data", "which labels; of PTB-XL superdiagnostic if not given"] = None
    files: Annotated[int | None, "data", "PTB-XL's files, 500 or 100 Hz; 100 if not given"] = None
    problem: Annotated[
        str, "data", "multi_label, single_label (records with exactly one), or regression (of --targets)"
    ] = "multi_label"
    targets: Annotated[
        list[str] | None, "data", "regression: numeric columns of the rows, NAME or NAME:UNIT, for instance age:years"
    ] = None
    train_fraction: Annotated[float, "data", "few labels: this share of the training part's patients, drawn"] = 1.0
    leads: Annotated[
        list[str] | None, "data", "see these leads only, for instance II V1; give the model these in use too"
    ] = None
    bandpass: Annotated[bool, "data", "filter 0.67-40 Hz, as the authors; the saved extractor does it too"] = True
    batch_size: Annotated[int, "data", "records a process and batch"] = 16
    num_workers: Annotated[int, "data", "processes that read and augment ahead; 0: the training process itself"] = 0

    augmentations: Annotated[
        list[str] | None,
        "augmentation",
        f"what is drawn from, or `none`; {' '.join(DEFAULT)} if not given; there is flip as well (of the sign)",
    ] = None
    augmentation_operations: Annotated[int, "augmentation", "how many are drawn for each record"] = 2
    augmentation_probability: Annotated[float, "augmentation", "with which each that was drawn is applied"] = 0.5
    augmentation_level: Annotated[float, "augmentation", "strength, 0 to 10"] = 10.0

    pooling: Annotated[str | None, "model", "mean or attention (a learned query); the checkpoint's if not given"] = None
    freeze_encoder: Annotated[bool, "model", "train the head alone, and the pooling if that is attention"] = False
    lora: Annotated[
        int,
        "model",
        "rank of adapters trained in place of the encoder (needs peft), merged at the end; 0: none",
    ] = 0
    new_head: Annotated[bool, "model", "forget the head of a checkpoint that was fine-tuned on other labels"] = False
    drop_path_rate: Annotated[float | None, "model", "stochastic depth of the last layer; the checkpoint's"] = None

    num_train_epochs: Annotated[float, "optimisation", "passes over the training part"] = 10.0
    warmup_epochs: Annotated[float, "optimisation", "of linear warm-up; then a cosine to 0"] = 3.0
    max_steps: Annotated[int | None, "optimisation", "optimizer steps, in place of so many epochs"] = None
    gradient_accumulation_steps: Annotated[int, "optimisation", "batches a step, where one would not fit"] = 1
    base_learning_rate: Annotated[
        float, "optimisation", "AdamW's highest at 256 records a step; taken in proportion to the records of a step"
    ] = 1e-4
    weight_decay: Annotated[float, "optimisation", "of weights; biases and norms are not decayed"] = 0.05
    layer_decay: Annotated[
        float, "optimisation", "each layer learns this much slower than the one above it; 1: all alike"
    ] = 1.0
    class_weights: Annotated[
        bool, "optimisation", "weigh a class's records by their rarity; probabilities are then too high"
    ] = False
    early_stopping_patience: Annotated[
        int,
        "optimisation",
        "end after so many epochs without a better validation, keep the best; 0: keep the last",
    ] = 0

    def __post_init__(self):
        require(bool(self.model), "model", self.model, "must name a checkpoint: a folder, or a model on the Hub")
        require(self.problem in PROBLEMS, "problem", self.problem, f"is none of {', '.join(PROBLEMS)}")
        require(self.mixed_precision in PRECISIONS, "mixed_precision", self.mixed_precision, "is no, bf16 or fp16")
        known = self.pooling in (None, "mean", "attention")
        require(known, "pooling", self.pooling, "is neither mean nor attention")
        at_least = {"seed": 0, "batch_size": 1, "num_workers": 0, "augmentation_operations": 0, "lora": 0}
        at_least |= {"gradient_accumulation_steps": 1, "weight_decay": 0, "early_stopping_patience": 0}
        at_least |= {"max_steps": 1, "cpu_threads": 1, "warmup_epochs": 0, "augmentation_level": 0}
        at_least |= {"augmentation_probability": 0, "drop_path_rate": 0, "resamples": 100}
        at_most = {"augmentation_level": 10, "augmentation_probability": 1, "train_fraction": 1, "layer_decay": 1}
        for name, least in at_least.items():
            value = getattr(self, name)
            require(value is None or value >= least, name, value, f"must be at least {least}")
        for name, most in at_most.items():
            require(getattr(self, name) <= most, name, getattr(self, name), f"must be at most {most}")
        for name in ("train_fraction", "layer_decay", "base_learning_rate", "num_train_epochs"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")
        rule = f"must be below num_train_epochs={self.num_train_epochs:g}; a short first look needs --warmup_epochs 0"
        require(self.warmup_epochs < self.num_train_epochs, "warmup_epochs", self.warmup_epochs, rule)
        wanted = self.problem == "regression"
        require(bool(self.targets) == wanted, "targets", self.targets, "go with problem regression, and it with them")
        require(not (self.lora and self.freeze_encoder), "lora", self.lora, "and freeze_encoder exclude each other")
        weighted = self.class_weights and wanted
        require(not weighted, "class_weights", True, "are for classes; a regression has none")
        self.corpus_choice()
        self.augment()
        self.lead_names()

    def corpus_choice(self) -> CorpusChoice:
        """The corpus with the folder and the options that stand beside it.

        Raises:
            EcgJepaConfigError: two folders.
        """
        choice = self.corpus or CorpusChoice("ptb_xl")
        twice = self.data_dir and choice.data_dir
        require(not twice, "data_dir", self.data_dir, f"and the corpus {choice.title} name two folders; give one")
        defaults: dict[str, Any] = _OF_PTB_XL if choice.name == "ptb_xl" else {}
        given = {name: getattr(self, name) for name in _OF_PTB_XL if getattr(self, name) is not None}
        options = defaults | choice.options | given
        if self.problem == "single_label" and choice.name != "prepared":
            options["single_label"] = True
        return dataclasses.replace(choice, data_dir=choice.data_dir or self.data_dir, held_out=True, options=options)

    def augment(self) -> RandAugment | None:
        """
        Raises:
            EcgJepaConfigError: an unknown augmentation.
        """
        if self.augmentations == ["none"] or not self.augmentation_operations:
            return None
        return RandAugment(
            tuple(self.augmentations or DEFAULT),
            self.augmentation_operations,
            self.augmentation_probability,
            self.augmentation_level,
        )

    def lead_names(self) -> list[str] | None:
        """Canonical names of the leads that are seen; None for all of the model's.

        Raises:
            EcgJepaConfigError: an unknown lead.
        """
        if self.leads is None:
            return None
        try:
            return canonical_leads(self.leads)
        except EcgJepaError as error:
            raise EcgJepaConfigError(f"leads={self.leads!r}: {error}") from error
