"""What ``python -m monai.bundle run`` does with a bundle of FM3D (:mod:`fm3d_core.adaptation.bundle`)."""

from __future__ import annotations

from pathlib import Path

from fm3d_core.inference.answering import Answering, write_answer


class BundleRun:
    """The bundle's adapter, for a folder of images.

    Args:
        bundle_root: the bundle.
        device: auto, cpu or cuda.

    Raises:
        AdapterError: the bundle is damaged.
    """

    def __init__(self, bundle_root: str, device: str = "auto") -> None:
        from fm3d_core.adaptation.bundle import load_bundle

        self.answering = Answering(load_bundle(bundle_root), device)

    def run(self, dataset_dir: str, output_dir: str) -> list[str]:
        """Segment every image, or answer about it, into files as ``fm3d predict`` writes them.

        Returns:
            The files.

        Raises:
            FM3DError: an image that cannot be used.
        """
        import json

        from fm3d_core.files import atomic_file
        from fm3d_core.volumes import find_cases, read_channels

        out, written, answers = Path(output_dir), [], {}
        task, asked = self.answering.task, self.answering.answered_task
        for case in find_cases(dataset_dir):
            volume = read_channels((case.image,), task.channels)
            answer = self.answering.answer(volume)
            written += write_answer(out, case.name, answer, task, volume)
            if asked is not None and answer.activated is not None:
                answers[case.name] = asked.describe(answer.activated)
        if answers:
            with atomic_file(out / "answers.json") as temporary:
                temporary.write_text(json.dumps(answers, indent=1, ensure_ascii=False), encoding="utf-8")
            written.append(out / "answers.json")
        return [str(path) for path in written]
