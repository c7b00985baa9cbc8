"""Train, load, evaluate and predict from Python: what the command line does, in a few calls."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from czsl_sac.predict.predictions import Prediction
from czsl_sac.predict.run_predictor import RunPredictor
from czsl_sac.training.config import TrackerName, TrainConfig
from czsl_sac.training.hub import PREFIX, download_run
from czsl_sac.training.presets import preset_for
from czsl_sac.training.run import train as train_run
from czsl_sac.training.trained import TrainedRun


class Run(TrainedRun):
    """A trained run: its method and all that it can be asked.

    `load_run` and `train` make one.

    Attributes:
        path: its folder.
        config: its configuration.
        method: the trained method.
        data: its data set, opened when first asked for.

    Examples:
        >>> from dataclasses import replace
        >>> from tempfile import mkdtemp
        >>> small = preset_for("scenes", "zero-shot")
        >>> small = replace(small, data=replace(small.data, eval_images_per_pair=1))
        >>> run = train(small, mkdtemp())
        Zero-shot CLIP on scenes into ...
        >>> 0.0 < run.evaluate(split="val").auc < 1.0
        True
    """

    _other: "Run | None" = None  # with the options that prediction needs, once it was asked to

    @property
    def path(self) -> Path:
        """Folder of the run."""
        return self.folder.path

    def predict(
        self,
        images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        top: int = 3,
        candidates: str = "all",
        adapt: bool = False,
    ) -> list[Prediction]:
        """Return what image files show, likeliest first.

        Args:
            images: a file, a folder or a pattern, or several of them.
            top: compositions, attributes and objects to keep of each image.
            candidates: what may be named: `"all"`, `"seen"`, `"open"`, or a file of compositions.
            adapt: update the memory bank on these images, batch by batch in their order.

        Returns:
            A prediction for each file, in the order of the files.

        Raises:
            ValueError: a file cannot be read, or an option does not fit.
        """
        from czsl_sac.predict.images import find_files

        given = [images] if isinstance(images, (str, os.PathLike)) else list(images)
        paths, missing = find_files([os.fspath(path) for path in given])
        predictor = RunPredictor(self._on_new_images(adapt), candidates=candidates)
        found = list(predictor.predict(paths, top_k=top)) if paths else []
        problems = [*missing, *predictor.unreadable]
        if problems:
            raise ValueError(
                f"images has {len(problems)} that must be readable but are not: {problems[0]}."
            )
        return found

    def push_to_hub(self, repo: str, *, token: str | None = None, private: bool = False) -> str:
        """Upload the run to the Hugging Face Hub, with a model card, and return its address.

        `load_run("hf:USER/NAME")` loads it from there. Its best epoch is uploaded, its memory and
        its figures, but no path of this machine.

        Args:
            repo: `USER/NAME`; it is made if it is not there.
            token: of the user; None takes the one that is logged in.
            private: whether a repository that is made is hidden from others.

        Raises:
            ValueError: the name is of another form, or the backbone is a file of this machine.
            ImportError: huggingface_hub is not installed.
            ConnectionError: the hub cannot be reached, or says no.
        """
        from czsl_sac.report.card import model_card
        from czsl_sac.training.hub import asked, check_repo, hub, share_run

        check_repo("repo", repo)
        api = hub(token)
        with TemporaryDirectory() as name:
            into = Path(name)
            share_run(self.folder, into)
            (into / "README.md").write_text(model_card(self.folder, repo=repo), "utf-8")
            asked(repo, lambda: api.create_repo(repo, private=private, exist_ok=True))
            message = f"{self.config.method.label} on {self.config.data.dataset}"
            done = asked(
                repo,
                lambda: api.upload_folder(repo_id=repo, folder_path=into, commit_message=message),
            )
        return str(done.repo_url if hasattr(done, "repo_url") else done)

    def _on_new_images(self, adapt: bool) -> "Run":
        """Return the run with the options that prediction needs; this one if it has them."""
        options = self.config.method
        changes = options.on_new_images(adapt)
        if all(getattr(options, name) == value for name, value in changes.items()):
            return self
        if self._other is None or changes.items() - vars(self._other.config.method).items():
            kept = {name: getattr(options, name) for name in options.inference}
            self._other = Run.load(
                self.path,
                checkpoint=self.checkpoint,
                data_root=self.config.data.data_root,
                **{**kept, **changes},
            )
        return self._other


def train(
    config: TrainConfig | str = "scenes",
    run_dir: str | os.PathLike[str] | None = None,
    *,
    method: str = "sac",
    resume: bool = False,
    track: Sequence[TrackerName] = (),
) -> Run:
    """Train a method and return the run.

    Args:
        config: a configuration, or the name of a preset.
        run_dir: folder of the run; None makes one under `runs/`.
        method: with the name of a preset: the method, by name or `MODULE:CLASS`.
        resume: continue the run in `run_dir`.
        track: trackers that show the run, such as `"tensorboard"`.

    Raises:
        FileExistsError: `run_dir` holds a run and `resume` is False.
        FileNotFoundError: the data set is not there.
        ValueError: an option does not fit.
    """
    if isinstance(config, str):
        config = preset_for(config, method)
    folder = new_run_dir(config) if run_dir is None else Path(run_dir)
    train_run(config, folder, resume=resume, track=track)
    return load_run(folder)


def load_run(
    path: str | os.PathLike[str],
    *,
    checkpoint: Literal["best", "last"] = "best",
    data_root: Path | None = None,
    **changes: Any,
) -> Run:
    """Return a run that was trained, ready to evaluate and to predict.

    Args:
        path: its folder, or `hf:USER/NAME` or `hf:USER/NAME@REVISION` on the Hugging Face Hub.
        checkpoint: `"best"` by validation AUC, or `"last"`, which the hub has not.
        data_root: where its data set is now; None: where it was.
        changes: options of the method that inference reads alone, such as `beta=0.3`.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: a file of it is damaged, or an option was decided in training.
        ConnectionError: the hub, or the run on it, cannot be had.
    """
    if str(path).startswith(PREFIX):
        path = download_run(str(path))
    return Run.load(path, checkpoint=checkpoint, data_root=data_root, **changes)


def new_run_dir(config: TrainConfig) -> Path:
    """Return the folder of a new run, named by data set, method and time."""
    import time

    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = re.split(r"[/\\:]", config.data.dataset.rstrip("/"))[-1]  # hf:USER/NAME is no file name
    return Path("runs") / f"{name}-{config.method.name}-{stamp}"
