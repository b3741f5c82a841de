"""Random bad requests over all commands, the same for a seed: each holds at least one thing that is wrong."""

import random
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import tifffile

from flysoma.tasks.volumes.ingest import NewLayer, ingest_array

NUMBERS = ["nan", "inf", "-inf", "-1", "0", "1e30", "1e-30", "x", "", "9" * 25, "0x40", "0.064"]
PATHS = ["", "/", ".", "mem://x", "ftp://x", "gs://", "https://127.0.0.1:9/x", "x" * 300, "a\nb"]
PATHS += ["/dev/null", "/proc/x", "file://", "//user:secret@host/x", "y/" * 2500]
TEXTS = ["", "x", "zyxx", "zz", "-", "é日", "a" * 5000, "a\tb", "$(x)", "%s%n"]
VALUES = [".nan", ".inf", "-1", "0", "1.0e+30", "9" * 400, "[]", "[a]", "{a: 1}", "null", "''"]
VALUES += ["2026-13-45", "!!python/name:os.system", "*x", "[[[1]]]", "true", "&a [*a]", '"\\0"']
KEYS = """image output mask midline fill_missing preset predict locate segment stitch soma queue prices
predict.window_vx predict.margin_vx predict.block_tiles locate.weights locate.resolution_nm locate.threshold
locate.halo_nm segment.weights segment.resolution_nm segment.block_vx segment.halo_nm stitch.overlap_nm
soma.max_diameter_nm midline.point_nm prices.gpu_hour unknown.key""".split()
DATA = ["data: /none", "data: null", "data: []", "data: [{phantoms: -1}]", "data: [{emads: /none}]"]
DATA += ["data: [{phantoms: 1, first_seed: -1}]", "steps: 0", "lr: .inf", "patch: [-1, 0, 5]"]
DATA += ["seed: -1", "- 1", "arch: x", "minutes: .nan", "data: [{image: x, labels: y}]"]
RUN_COMMANDS = ["status", "clean", "view", "publish", "link", "enqueue", "retry", "compare"]
NM = ["64", "64", "40"]


def make_files(folder: Path) -> tuple[list[str], list[str]]:
    """Write a good file of each format and bad ones; return the paths of both."""
    grey = np.random.default_rng(0).integers(0, 255, (12, 20, 24), dtype=np.uint8)
    tifffile.imwrite(folder / "ok.tif", grey)
    nib.save(nib.Nifti1Image(grey, np.eye(4)), folder / "ok.nii")
    nib.save(nib.Nifti1Image(grey, np.eye(4)), folder / "ok.nii.gz")
    with h5py.File(folder / "ok.h5", "w") as file:
        file["a"] = grey
    np.save(folder / "ok.npy", grey)
    np.savez(folder / "ok.npz", grey)
    good = sorted(folder.glob("ok.*"))
    bad = []
    rng = np.random.default_rng(1)
    for path in good:
        data, suffix = path.read_bytes(), path.name.removeprefix("ok")
        flipped = bytearray(data)
        for place in rng.integers(0, min(len(data), 400), 8):
            flipped[place] ^= 255
        other = good[rng.integers(len(good))].read_bytes() if suffix != ".npy" else b"x"
        kinds = {"empty": b"", "half": data[: len(data) // 2], "tail": data[len(data) // 2 :]}
        kinds |= {"random": rng.bytes(3000), "flipped": bytes(flipped), "other": other}
        for kind, content in kinds.items():
            bad.append(folder / f"{kind}{suffix}")
            bad[-1].write_bytes(content)
    for name, array in {
        "flat": grey[0],
        "times": grey[None].repeat(2, 0),
        "none": grey[:0],
        "nan": np.full((4, 4, 4), np.nan, np.float32),
        "complex": grey.astype(complex),
        "records": np.zeros((4, 4, 4), [("a", "u1")]),
        "negative": grey.astype(int) - 300,
        "text": np.full((4, 4, 4), "x"),
    }.items():
        bad.append(folder / f"{name}.npy")
        np.save(bad[-1], array)
    (folder / "folder.tif").mkdir()
    (folder / "loop.npy").symlink_to("loop.npy")
    (folder / "gone.npy").symlink_to("nowhere")
    bad += [folder / "folder.tif", folder / "loop.npy", folder / "gone.npy", folder / "no.tif"]
    bad += [folder, folder / ("z" * 300 + ".tif"), folder / "ok.npy" / "x.npy"]
    return [str(path) for path in good], [str(path) for path in bad]


def make_runs(folder: Path) -> list[str]:
    """Write folders that are no runs; return their paths."""
    configs = {"empty": "", "list": "[1]", "cut": "image: [", "other": "image: x\noutput: y\n"}
    for name, text in configs.items():
        (folder / name).mkdir()
        (folder / name / "config.yaml").write_text(text)
    (folder / "binary").mkdir()
    (folder / "binary/config.yaml").write_bytes(b"\xff\xfe\x00")
    return [str(folder / name) for name in (*configs, "binary", "none")]


class Requests:
    """Makes bad requests; files and configs lie in `folder`."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.good, self.bad = make_files(folder)
        self.runs = make_runs(folder)
        grey = np.random.default_rng(0).integers(0, 255, (70, 70, 70), dtype=np.uint8)
        ingest_array(grey, NewLayer(f"{folder}/em", (64, 64, 40)))
        self.number = 0

    def make(self) -> list[str]:
        self.number += 1
        kind = self.random.choice(
            [self.ingest, self.file, self.file, self.plan, self.plan, self.run, self.of_run]
            + [self.train, self.options]
        )
        return kind()

    def pick(self, values: list[str]) -> str:
        return self.random.choice(values)

    def sizes(self) -> list[str]:
        sizes = list(NM)
        sizes[self.random.randrange(3)] = self.pick(NUMBERS)
        return sizes

    def place(self) -> str:
        return self.pick([*PATHS, f"{self.folder}/ok.npy", f"{self.folder}/ok.npy/x"])

    def ingest(self) -> list[str]:
        file, place, more = self.pick(self.good), f"{self.folder}/new{self.number}", []
        sizes = NM
        wrong = self.random.randrange(6)
        if wrong == 0:
            file = self.pick(self.bad)
        elif wrong == 1:
            place = self.place()
        elif wrong == 2:
            sizes = self.sizes()
        elif wrong == 3:
            more = ["--offset", *self.random.sample(NUMBERS, 3)]
        elif wrong == 4:
            more = ["--rescale", self.pick(NUMBERS), self.pick(NUMBERS)]
        else:
            more = [self.pick(["--axes", "--dataset", "--no-option"]), self.pick(TEXTS)]
        labels = ["--segmentation"] if self.random.random() < 0.3 else []
        return ["ingest", file, place, "--resolution", *sizes, *more, *labels]

    def file(self) -> list[str]:
        """A command that reads a file: a bad file, or a good one with a bad voxel size."""
        if self.random.random() < 0.6:
            file, sizes = self.pick([*self.bad, *PATHS]), NM
        else:
            file, sizes = self.pick(self.good), self.sizes()
        more = ["--resolution", *sizes]
        command = self.random.randrange(5)
        if command == 0:
            return ["predict", file, *more, "--output", f"{self.folder}/labels{self.number}.tif"]
        if command == 1:
            return ["evaluate", *self.random.sample([file, f"{self.folder}/ok.npy"], 2), *more]
        if command == 2:
            weights = f"{self.folder}/adapted.safetensors"
            return ["adapt", file, *more, "--output", weights]
        if command == 3:
            return ["bench", "nuclei", file, f"{self.folder}/none.csv", *more]
        return ["look", file, *more]

    def config(self) -> str:
        """A config with one wrong value, or with damaged text."""
        values = {"image": f"{self.folder}/em", "output": f"{self.folder}/run"}
        section, _, key = self.pick(KEYS).partition(".")
        value = self.pick(VALUES)
        values[section] = f"{{{key}: {value}}}" if key else value
        text = "".join(f"{name}: {value}\n" for name, value in values.items())
        if self.random.random() < 0.2:
            place = self.random.randrange(len(text))
            text = (
                text[:place]
                + self.pick(["\t", "\x00", "[", "'", ": ", "\n- ", "&a"])
                + text[place:]
            )
        return self.save(text)

    def save(self, text: str) -> str:
        path = self.folder / f"config{self.number}.yaml"
        path.write_text(text)
        return str(path)

    def plan(self) -> list[str]:
        config = self.config() if self.random.random() < 0.8 else self.pick([*self.bad, *PATHS])
        return ["plan", config, *self.random.choice([[], ["--json"], ["--price"]])]

    def run(self) -> list[str]:
        text = f"image: {self.folder}/em\noutput: {self.folder}/run\n"
        wrong = self.random.choice(
            [
                ["--until", self.pick(TEXTS)],
                ["--workers", self.pick(["-1", "x", "1.5", "nan"])],
                ["--max-failed", self.pick(["nan", "2", "-1", "x"])],
                ["--workers", "0", "--queue", self.pick(["", "x", "http://x", "ftp://q"])],
                ["--workers", "0"],
            ]
        )
        return ["run", self.save(text), *wrong]

    def of_run(self) -> list[str]:
        command = self.pick(RUN_COMMANDS)
        more = {
            "publish": [f"{self.folder}/published"],
            "link": ["--segmentation", self.place()],
            "enqueue": [self.pick(TEXTS), "--queue", f"fq://{self.folder}/queue"],
            "retry": ["--queue", self.pick(["x", "http://x", ""])],
            "compare": [self.pick(self.runs)],
        }.get(command, [])
        return [command, self.pick([*self.runs, *self.bad, *PATHS]), *more]

    def train(self) -> list[str]:
        config = self.save(self.pick(DATA) + "\n")
        return ["train", self.pick(["locate", "segment"]), config, "--output"] + [
            self.pick([f"{self.folder}/w.safetensors", f"{self.folder}/w.jpg", str(self.folder)])
        ]

    def options(self) -> list[str]:
        return self.random.choice(
            [
                ["demo", "--seed", self.pick(["-1", "x", "9" * 25, "nan"])],
                ["demo", "--workers", self.pick(["0", "-1", "x"])],
                ["view", self.pick(self.runs), "--port", self.pick(["-1", "99999999", "x"])],
                ["view", self.pick(self.runs), "--at", "nan", "0", "0"],
                ["work", self.pick(["x", "", "http://x", "ftp://x", f"fq://{self.folder}/ok.npy"])],
                ["work", f"fq://{self.folder}/q", "--grace", self.pick(["nan", "inf", "-1"])],
                ["work", f"fq://{self.folder}/q", "--max-memory", self.pick(["nan", "-1", "0"])],
                ["work", f"fq://{self.folder}/q", "--metrics-port", self.pick(["0", "99999", "x"])],
                ["look", f"{self.folder}/em", "--places", self.pick(["0", "-1", "9" * 25, "x"])],
                ["bench", "real", self.pick([*PATHS, *self.bad])],
                [self.pick(["ingest", "predict", "evaluate", "plan", "no-command"])],
            ]
        )
