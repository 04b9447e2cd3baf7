"""Another signal, end to end: 19 channels of EEG with known sources, from arrays at 256 Hz to a model at 200 Hz.

In every generated recording two slow waves of different frequency drive the channels, either one the front and one the
back of the head or one the left and one the right. All channels are equally loud, so which source a channel follows
shows in its frequency and in its correlations with the others, and nowhere else.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.signal
import torch
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoFeatureExtractor, AutoModel

from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaFeatureExtractor, EcgJepaInputError, EcgJepaModel
from train.options import CorpusChoice, PretrainOptions
from train.pretrain import pretrain
from train.starting import initial_model

#: The international 10-20 system: right (x) and front (y) of the vertex.
ELECTRODES = {
    "Fp1": (-0.3, 0.9), "Fp2": (0.3, 0.9),
    "F7": (-0.8, 0.6), "F3": (-0.4, 0.5), "Fz": (0.0, 0.5), "F4": (0.4, 0.5), "F8": (0.8, 0.6),
    "T7": (-1.0, 0.0), "C3": (-0.5, 0.0), "Cz": (0.0, 0.0), "C4": (0.5, 0.0), "T8": (1.0, 0.0),
    "P7": (-0.8, -0.6), "P3": (-0.4, -0.5), "Pz": (0.0, -0.5), "P4": (0.4, -0.5), "P8": (0.8, -0.6),
    "O1": (-0.3, -0.9), "O2": (0.3, -0.9),
}  # fmt: skip
CHANNELS = list(ELECTRODES)
RATE = 256
MICROVOLTS, NOISE = 20.0, 10.0  # RMS of the sources and of each channel's own noise

OPTIONS = PretrainOptions(
    preset="tiny",
    modality="other",
    leads=CHANNELS,
    sampling_rate=200,
    patch_size=40,
    num_patches=20,
    hidden_size=48,
    num_hidden_layers=2,
    predictor_num_hidden_layers=1,
    drop_path_rate=0.0,
    mask_type="random",
    mask_ratio=[0.4, 0.5],
    patch_initializer_range=2.0,  # a tenth of an ECG's size
    position_scale=0.2,
    target_centering=True,
    max_steps=120,
    logging_steps=40,
    batch_size=8,
    learning_rate=2e-3,
    warmup_steps=20,
    momentum_start=0.99,
    probe_records=0,
    cpu_threads=1,
)


@dataclasses.dataclass(frozen=True)
class Recording:
    """A generated recording and its truth.

    Attributes:
        signal: (channels, samples) in microvolts at `RATE`.
        frequencies: (2,) of the sources, in Hz.
        mixing: (channels, 2) share of each source in each channel; the squares of a row sum to 1.
    """

    signal: np.ndarray
    frequencies: np.ndarray
    mixing: np.ndarray


def record_eeg(place: int, seconds: float) -> Recording:
    rng = np.random.default_rng([11, place])
    frequencies, phases = rng.uniform([0.5, 1.5], [1.5, 3.5]), rng.uniform(0, 2 * np.pi, 2)
    position = np.array(list(ELECTRODES.values()))[:, rng.integers(2)]
    share = 1 / (1 + np.exp(-position / 0.1))
    mixing = np.sqrt(np.stack([share, 1 - share], axis=1))
    time = np.arange(round(seconds * RATE)) / RATE
    sources = np.sqrt(2) * np.sin(2 * np.pi * frequencies[:, None] * time + phases[:, None])
    noise = rng.normal(scale=NOISE, size=(len(CHANNELS), len(time)))
    return Recording(MICROVOLTS * mixing @ sources + noise, frequencies, mixing)


def write_windows(recordings: Sequence[Recording], folder: Path) -> Path:
    """What the README shows: windows of recordings as rows of Parquet, ready for pretraining."""
    extractor = EcgJepaFeatureExtractor.from_config(OPTIONS.model_config(), window_seconds=4)
    for place, recording in enumerate(recordings):
        windows = extractor(recording.signal, RATE, CHANNELS, "uV", return_tensors="np")["input_values"]
        scales = np.abs(windows).max(axis=(1, 2)).clip(1e-9) / 32767  # of a count: 16 bits hold each window
        counts = np.rint(windows / scales[:, None, None]).astype(np.int16)
        columns = {
            "signal": pa.FixedSizeListArray.from_arrays(counts.ravel(), counts[0].size),
            "signal_scale": scales,
            "lead_names": [CHANNELS] * len(windows),
            "sampling_rate": [float(extractor.sampling_rate)] * len(windows),
        }
        pq.write_table(pa.table(columns), folder / f"recording{place}.parquet")
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """The folder of a run on 200 recordings of 8 s."""
    corpus = write_windows([record_eeg(place, seconds=8) for place in range(200)], tmp_path_factory.mktemp("eeg"))
    run_on(corpus, OPTIONS)
    return corpus / "run"


def run_on(corpus: Path, options: PretrainOptions) -> None:
    choice = CorpusChoice("prepared", str(corpus))
    pretrain(dataclasses.replace(options, corpus=[choice], output_dir=str(corpus / "run")))


def test_the_generated_channels_have_the_correlations_and_frequencies_that_are_claimed():
    recording = record_eeg(0, seconds=60)
    expected = recording.mixing @ recording.mixing.T * MICROVOLTS**2 / (MICROVOLTS**2 + NOISE**2)
    np.fill_diagonal(expected, 1.0)
    np.testing.assert_allclose(np.corrcoef(recording.signal), expected, atol=0.02)
    spectrum_hz, spectrum = scipy.signal.welch(recording.signal, RATE, nperseg=30 * RATE)
    loudest = recording.frequencies[recording.mixing.argmax(axis=1)]
    followed = recording.mixing.max(axis=1) > 0.9
    np.testing.assert_allclose(spectrum_hz[spectrum.argmax(axis=1)][followed], loudest[followed], atol=1 / 30)


@torch.inference_mode()
def channel_embeddings(encoder: EcgJepaModel, extractor, recordings: Sequence[Recording]) -> np.ndarray:
    """(recordings, channels, hidden size): the mean over time of each channel's patches."""
    inputs = extractor([recording.signal for recording in recordings], RATE, [CHANNELS] * len(recordings), "uV")
    return encoder.eval()(**inputs).last_hidden_state.unflatten(1, (len(CHANNELS), -1)).mean(2).numpy()


def test_what_drives_each_channel_is_read_off_its_embedding_far_better_than_with_random_weights(pretrained):
    recordings = [record_eeg(1000 + place, seconds=4) for place in range(200)]
    mixing = np.stack([recording.mixing for recording in recordings])
    truth = np.stack([recording.frequencies for recording in recordings])
    truth = np.take_along_axis(truth, mixing.argmax(axis=2), axis=1)  # of each channel's source
    followed = mixing.max(axis=2) > 0.9  # not the channels between the two

    def r2(encoder: EcgJepaModel) -> float:
        embeddings = channel_embeddings(encoder, AutoFeatureExtractor.from_pretrained(pretrained), recordings)
        ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 4, 15)))
        ridge.fit(embeddings[:100][followed[:100]], truth[:100][followed[:100]])
        return r2_score(truth[100:][followed[100:]], ridge.predict(embeddings[100:][followed[100:]]))

    random = r2(initial_model(OPTIONS.model_config(), OPTIONS.seed).encoder)
    learned = r2(AutoModel.from_pretrained(pretrained))
    print(f"R2 of the frequency of each channel's source: pretrained {learned:.3f}, random weights {random:.3f}")
    assert learned > 0.6
    assert learned > random + 0.2


def test_the_saved_model_takes_its_channels_by_name_in_any_order_at_any_rate(pretrained):
    model, extractor = AutoModel.from_pretrained(pretrained).eval(), AutoFeatureExtractor.from_pretrained(pretrained)
    signal = record_eeg(0, seconds=4).signal
    order = np.random.default_rng(0).permutation(len(CHANNELS))
    names = [CHANNELS[place] for place in order]
    faster = scipy.signal.resample(signal[order], 4 * 500, axis=1)
    with torch.inference_mode():
        expected = model(**extractor(signal, RATE, CHANNELS, "uV")).pooler_output
        found = model(**extractor(faster, 500, names, "uV")).pooler_output
        some = extractor(signal[[8, 17]], RATE, ["C3", "O1"], "uV")
        masked = model(**some).pooler_output
        alone = model(some["input_values"][:, [8, 17]], leads=["C3", "O1"]).pooler_output
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alone, masked, atol=1e-5, rtol=1e-5)
    with pytest.raises(EcgJepaInputError, match="no channel 'FP1'. Did you mean 'Fp1'"):
        extractor(signal[:1], RATE, ["FP1"], "uV")


def test_windows_of_other_channels_are_refused_with_where_the_way_is_shown(tmp_path):
    write_windows([record_eeg(0, seconds=4)], tmp_path)
    with pytest.raises(EcgJepaConfigError, match="leads are not O2, O1.*README shows under"):
        run_on(tmp_path, dataclasses.replace(OPTIONS, leads=CHANNELS[::-1]))


def test_the_heart_rate_probe_is_refused_before_anything_is_read():
    with pytest.raises(EcgJepaConfigError, match="probe_records=400 are synthetic ECGs"):
        dataclasses.replace(OPTIONS, probe_records=400)
