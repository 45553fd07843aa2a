"""An ensemble as files: tensors in safetensors, all else in readable JSON. Never pickle."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from models.boosted import Boosted, BoostedConfig
from models.calibration import Calibration, CalibrationConfig
from models.detector import Detector
from models.ensemble import Ensemble
from models.hybrid import Hybrid
from models.preprocessing import PreprocessingConfig, Preprocessor
from models.probability import Probability
from models.registry import get_entry
from models.stacking import Stack

FORMAT_VERSION = 3
DESCRIPTION_FILE = "ensemble.json"
TENSOR_FILE = "ensemble.safetensors"


def save_ensemble(ensemble: Ensemble, directory: Path) -> None:
    """Write an ensemble to a directory; equal ensembles give equal bytes.

    The description is written last and carries the digest of the tensors, so a crash in between
    leaves either the old ensemble or one that ``load_ensemble`` refuses, never a mixture that
    scores.

    Raises:
        NotFittedError: if a part is not fitted (nothing is written then).
    """
    tensors = {key: value.cpu().contiguous() for key, value in collect_tensors(ensemble).items()}
    content = save_tensors(dict(sorted(tensors.items())))
    description = describe(ensemble) | {"tensors_sha256": hashlib.sha256(content).hexdigest()}
    text = json.dumps(description, indent=2, sort_keys=True, allow_nan=False) + "\n"
    directory.mkdir(parents=True, exist_ok=True)
    replace_file(directory / TENSOR_FILE, content)
    replace_file(directory / DESCRIPTION_FILE, text.encode())


def replace_file(path: Path, content: bytes) -> None:
    """Write beside the file, then rename over it, so that no reader sees half of it."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def collect_tensors(ensemble: Ensemble) -> dict[str, Tensor]:
    """Name every tensor of the ensemble by its part."""
    parts: dict[str, dict[str, Tensor]] = {"preprocessor": ensemble.preprocessor.state_dict()}
    if ensemble.history_scaler is not None:
        parts["history_scaler"] = ensemble.history_scaler.state_dict()
    for name, member in ensemble.members.items():
        parts[f"member.{name}"] = member.state_dict()
        parts[f"calibration.{name}"] = ensemble.calibrations[name].state_dict()
    if ensemble.stack is not None:
        text = bytearray(ensemble.stack.boosted.dumps().encode())
        parts["boosted"] = {"text": torch.frombuffer(text, dtype=torch.uint8)}
        parts["calibration.boosted"] = ensemble.stack.calibration.state_dict()
    return {
        f"{part}/{key}": value for part, state in parts.items() for key, value in state.items()
    }


def describe(ensemble: Ensemble) -> dict[str, Any]:
    """Give everything but the tensors as JSON values."""
    scaler, stack, probability = ensemble.history_scaler, ensemble.stack, ensemble.probability
    return {
        "format_version": FORMAT_VERSION,
        "preprocessor": describe_preprocessor(ensemble.preprocessor),
        "history_scaler": (None if scaler is None else describe_preprocessor(scaler)),
        "members": {
            name: {
                "config": asdict(member.config),
                "n_features": member.n_features,
                "weight": ensemble.weights[name],
                "features": list(ensemble.views[name]),
                "calibration": asdict(ensemble.calibrations[name].config),
            }
            for name, member in ensemble.members.items()
        },
        "stack": None if stack is None else describe_stack(stack),
        "threshold": ensemble.threshold,
        "probability": None if probability is None else probability.describe(),
    }


def describe_stack(stack: Stack) -> dict[str, Any]:
    """Give a stack's columns and settings as JSON values."""
    return {
        "config": asdict(stack.boosted.config),
        "features": list(stack.boosted.feature_names),
        "categorical": sorted(stack.boosted.categorical),
        "calibration": asdict(stack.calibration.config),
        "hybrid": asdict(stack.hybrid),
    }


def describe_preprocessor(preprocessor: Preprocessor) -> dict[str, Any]:
    """Give a preprocessor's columns and settings as JSON values."""
    return {
        "feature_names": list(preprocessor.feature_names),
        "cardinalities": preprocessor.cardinalities,
        "config": asdict(preprocessor.config),
    }


def load_ensemble(directory: Path, device: str | torch.device = "cpu") -> Ensemble:
    """Read an ensemble back; its scores equal those of the one that was saved.

    Args:
        directory: Where ``save_ensemble`` wrote.
        device: Where to score; need not be the device of the fit.

    Raises:
        ValueError: if a file is missing, damaged, of another format version or does not fit the
            others.
    """
    description = read_description(directory / DESCRIPTION_FILE)
    tensors = read_tensors(directory / TENSOR_FILE, description)
    try:
        ensemble = rebuild(description, tensors)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"expected a whole ensemble in {directory}, got {type(error).__name__}: {error}; "
            "save it again"
        ) from error
    return ensemble.to(device)


def read_description(path: Path) -> dict[str, Any]:
    """Read the JSON part.

    Raises:
        ValueError: if it is missing, no JSON object or of another format version.
    """
    if not path.is_file():
        raise ValueError(f"expected an ensemble's description at {path}, found no such file")
    try:
        description = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"expected JSON in {path}, it is damaged: {error}") from error
    version = description.get("format_version") if isinstance(description, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"expected format_version {FORMAT_VERSION} in {path}, got {version!r}; "
            "load it with the Nightwarden that saved it, or train again"
        )
    return dict(description)


def read_tensors(path: Path, description: dict[str, Any]) -> dict[str, Tensor]:
    """Read the tensors and check that they are those of the description.

    Raises:
        ValueError: if the file is missing or damaged, or belongs to another description.
    """
    if not path.is_file():
        raise ValueError(f"expected an ensemble's tensors at {path}, found no such file")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != description.get("tensors_sha256"):
        raise ValueError(
            f"expected {path} with SHA-256 {description.get('tensors_sha256')}, got {digest}: "
            "it is truncated, changed or of another ensemble"
        )
    try:
        return load_tensors(content)
    except SafetensorError as error:
        raise ValueError(f"expected safetensors in {path}, it is damaged: {error}") from error


def rebuild(description: dict[str, Any], tensors: dict[str, Tensor]) -> Ensemble:
    """Put an ensemble together from its description and tensors."""
    members: dict[str, Detector] = {}
    calibrations: dict[str, Calibration] = {}
    for name, entry in description["members"].items():
        config = make_config(name, entry["config"])
        members[name] = get_entry(name).detector(config, entry["n_features"]).double().eval()
        members[name].load_state_dict(select_part(tensors, f"member.{name}"))
        calibrations[name] = rebuild_calibration(name, entry["calibration"], tensors)
    scaler, stack = description["history_scaler"], description["stack"]
    ensemble = Ensemble(
        rebuild_preprocessor(description["preprocessor"], select_part(tensors, "preprocessor")),
        members,
        calibrations,
        {name: entry["weight"] for name, entry in description["members"].items()},
        views={name: entry["features"] for name, entry in description["members"].items()},
        history_scaler=(
            None
            if scaler is None
            else rebuild_preprocessor(scaler, select_part(tensors, "history_scaler"))
        ),
        stack=None if stack is None else rebuild_stack(stack, tensors),
    )
    ensemble.threshold = description["threshold"]
    if description["probability"] is not None:
        ensemble.probability = Probability.from_description(description["probability"])
    return ensemble


def rebuild_calibration(
    name: str, config: dict[str, Any], tensors: dict[str, Tensor]
) -> Calibration:
    """Put a member's calibration together from its settings and tensors."""
    knots = select_part(tensors, f"calibration.{name}")
    calibration = Calibration(CalibrationConfig(**config), len(knots["knots"]))
    calibration.load_state_dict(knots)
    return calibration


def rebuild_stack(entry: dict[str, Any], tensors: dict[str, Tensor]) -> Stack:
    """Put a stack together from its description and tensors."""
    text = select_part(tensors, "boosted")["text"].numpy().tobytes().decode()
    boosted = Boosted.loads(
        BoostedConfig(**entry["config"]), entry["features"], entry["categorical"], text
    )
    calibration = rebuild_calibration("boosted", entry["calibration"], tensors)
    return Stack(boosted, calibration, Hybrid(**entry["hybrid"]))


def rebuild_preprocessor(entry: dict[str, Any], tensors: dict[str, Tensor]) -> Preprocessor:
    """Put a preprocessor together from its description and tensors."""
    preprocessor = Preprocessor(
        PreprocessingConfig(**entry["config"]), entry["feature_names"], entry["cardinalities"]
    )
    preprocessor.load_state_dict(tensors)
    return preprocessor


def select_part(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """Give the tensors of one part under their own names."""
    prefix = part + "/"
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


def make_config(name: str, values: dict[str, Any]) -> Any:  # noqa: ANN401 (one class per detector)
    """Make a detector's config from JSON values; JSON's lists are the configs' tuples."""
    return get_entry(name).config(
        **{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    )
