"""What a pretrained encoder has to beat: simple statistics of each lead, and a network trained on the labels alone."""

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from .probe_records import Part, ProbeRecords, inner_splits
from .probing import Fitted, inner_macro_auroc

# Statistics -----------------------------------------------------------------------------------------------------------

#: What `lead_statistics` gives of each lead, in this order.
STATISTICS = ("standard deviation", "minimum", "maximum", "mean absolute slope")


def lead_statistics(records: ProbeRecords) -> np.ndarray:
    """(records, leads x 4) float32: of each lead of the model's input its standard deviation, minimum and maximum in
    mV and its mean absolute slope in mV/s; NaN where the lead is missing."""
    sampling_rate = records.windows.extractor.sampling_rate
    parts = []
    for places in np.array_split(np.arange(len(records.ids)), 1 + len(records.ids) // 256):
        batch = records.windows.__getitems__(places)
        signal = batch["input_values"].numpy()
        slope = np.abs(np.diff(signal, axis=-1)).mean(-1) * sampling_rate
        of_lead = np.stack([signal.std(-1), signal.min(-1), signal.max(-1), slope], axis=-1)
        of_lead[~batch["lead_mask"].numpy()] = np.nan
        parts.append(of_lead.reshape(len(places), -1))
    return np.concatenate(parts)


# The supervised network -----------------------------------------------------------------------------------------------

#: How the network is trained, all of it fixed but the number of epochs: that is the first of these, in ascending order,
#: after which a longer schedule is no better on patients of the fitted part that were left out for this choice.
NETWORK = {
    "width": 16,
    "kernel": 7,
    "dropout": 0.2,
    "batch_size": 16,
    "learning_rate": 5e-3,
    "weight_decay": 0.01,
    "epochs": (6, 12, 24, 48),
    "inner_splits": 2,
}


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, as ResNet-D has it: averaged before it is widened (arXiv 1812.01187)."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv1d(channels, width, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, width, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm1d(width),
        )
        nn.init.zeros_(self.branch[-1].weight)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.append(nn.AvgPool1d(stride, ceil_mode=True))
        if channels != width:
            self.shortcut.append(nn.Conv1d(channels, width, 1, bias=False)).append(nn.BatchNorm1d(width))

    def forward(self, signal: Tensor) -> Tensor:
        return torch.relu(self.branch(signal) + self.shortcut(signal))


class ResNet1d(nn.Module):
    """A small one-dimensional residual network: (records, leads, samples) -> (records, classes) log odds.

    After the xresnet1d of the PTB-XL benchmark (Strodthoff et al., IEEE J. Biomed. Health Inform. 25:1519 (2021)), cut
    down to some 1,000 records: four blocks, mean and maximum over time, 120,000 parameters with 8 leads.
    """

    def __init__(self, leads: int, classes: int, width: int, kernel: int, dropout: float):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(leads, width, 15, stride=4, padding=7, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.MaxPool1d(3, stride=2, padding=1),
            ResidualBlock(width, width, kernel, stride=1),
            ResidualBlock(width, 2 * width, kernel, stride=2),
            ResidualBlock(2 * width, 4 * width, kernel, stride=2),
            ResidualBlock(4 * width, 4 * width, kernel, stride=2),
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(8 * width, classes))

    def forward(self, signal: Tensor) -> Tensor:
        over_time = self.layers(signal)
        return self.head(torch.cat([over_time.mean(-1), over_time.amax(-1)], dim=1))


class Trained:
    """A network fitted to signals (records, leads, samples) and labels (records, classes), each lead scaled by its
    standard deviation among them: AdamW, one cycle of the learning rate (Smith, arXiv 1803.09820), no augmentation."""

    def __init__(self, signals: Tensor, labels: np.ndarray, epochs: int, seed: int, device: torch.device):
        self.scale, self.device = signals.std((0, 2), keepdim=True).clamp(min=1e-6), device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            sizes = {name: NETWORK[name] for name in ("width", "kernel", "dropout")}
            self.network = ResNet1d(signals.shape[1], labels.shape[1], **sizes).to(device)
            self._train(signals, torch.from_numpy(labels).float(), epochs)
        self.network.eval()

    def _train(self, signals: Tensor, labels: Tensor, epochs: int) -> None:
        rate, decay = NETWORK["learning_rate"], NETWORK["weight_decay"]
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=rate, weight_decay=decay)
        batches = -(-len(signals) // NETWORK["batch_size"])
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * batches)
        for _ in tqdm(range(epochs), desc="epochs", leave=False):
            for batch in torch.randperm(len(signals)).tensor_split(batches):  # of nearly equal sizes, none of 1
                logits = self.network((signals[batch] / self.scale).to(self.device))
                loss = nn.functional.binary_cross_entropy_with_logits(logits, labels[batch].to(self.device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()

    @torch.inference_mode()
    def scores(self, signals: Tensor) -> np.ndarray:
        """(records, classes) log odds."""
        parts = [self.network((part / self.scale).to(self.device)).cpu() for part in signals.split(256)]
        return torch.cat(parts).double().numpy()


def fit_network(
    signals: Tensor, labels: np.ndarray, groups: np.ndarray, part: Part, seed: int, device: torch.device
) -> Fitted:
    """Train a network on a part's records and score those that it tests.

    Args:
        signals: (all records, leads, samples), the model's own inputs.
        labels: (all records, classes) boolean.
        groups: (all records,), the patients.
        seed: of the first weights, the order of records, and the splits in which the number of epochs is chosen.
    """
    fitted = part.fitted
    epochs, inner = choose_epochs(signals[fitted], labels[fitted], groups[fitted], seed, device)
    network = Trained(signals[fitted], labels[fitted], epochs, seed, device)
    return Fitted(network.scores(signals[part.tested]), {"epochs": epochs, "inner_macro_auroc": inner})


def choose_epochs(
    signals: Tensor, labels: np.ndarray, groups: np.ndarray, seed: int, device: torch.device
) -> tuple[int, dict[str, float]]:
    """The number of epochs of the highest macro AUROC over records that were not fitted; and that of each number.

    Sought upwards, until a longer schedule is no better.
    """
    splits = list(inner_splits(groups, NETWORK["inner_splits"], seed))
    reached: dict[int, float] = {}
    for epochs in NETWORK["epochs"]:
        scores = [
            Trained(signals[fitted], labels[fitted], epochs, seed, device).scores(signals[validated])
            for fitted, validated in splits
        ]
        reached[epochs] = inner_macro_auroc([labels[validated] for _, validated in splits], scores)
        best = max(reached, key=reached.__getitem__)
        if best != epochs:
            break
    return best, {str(number): round(value, 5) for number, value in reached.items()}
