"""Make datasets ready: low-resolution pictures, sub-images, LMDB, lists, checks, the embedded sample."""

import argparse
import os
import sys
from pathlib import Path

from eqmambair.cli._run import run
from eqmambair.errors import UserError

_SOURCES = """\
DIV2K      training (800 pictures) and validation (100), 2K photographs. Super-resolution, denoising.
           https://data.vision.ee.ethz.ch/cvl/DIV2K/     academic research only, the pictures belong to their authors
           datasets/DIV2K/HR, datasets/DIV2K/LR_bicubic/X2 ...
Flickr2K   training (2650), 2K photographs; DIV2K and Flickr2K in one folder are called DF2K.
           https://github.com/limbee/NTIRE2017           academic research only, the pictures belong to their authors
           datasets/Flickr2K/HR, datasets/DF2K/HR (both), datasets/DF2K/LR_bicubic/X2 ...
BSD400     training (400): train and test parts of BSDS500. Denoising, JPEG artefacts.
           https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/resources.html   non-commercial research and education
           datasets/BSD400/HR
WED        training (4744): Waterloo Exploration Database. Denoising, JPEG artefacts.
           https://ece.uwaterloo.ca/~k29ma/exploration/  academic research, see the page
           datasets/WED/HR
DFWB       DIV2K, Flickr2K, BSD400 and WED in one folder. Denoising, JPEG artefacts.
           datasets/DFWB/HR, datasets/DFWB/HR_sub
SIDD       training and validation: real noise of smartphones, noisy and clean pairs.
           https://abdokamel.github.io/sidd/             see the page
           datasets/SIDD/{train,val}/{input,target}
Set5       test (5). Bevilacqua et al. 2012.             research use; no licence is stated
           datasets/Set5/HR, datasets/Set5/LR_bicubic/X2 ...
Set14      test (14). Zeyde et al. 2010.                 research use; no licence is stated
           datasets/Set14/HR, datasets/Set14/LR_bicubic/X2 ...
B100       test (100): the validation part of BSDS500.
           https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/bsds/   non-commercial research and education
           datasets/B100/HR, datasets/B100/LR_bicubic/X2 ...
Urban100   test (100): buildings. Huang et al. 2015.
           https://github.com/jbhuang0604/SelfExSR       research use, see the page
           datasets/Urban100/HR, datasets/Urban100/LR_bicubic/X2 ...
Manga109   test (109): comic covers, on request.
           http://www.manga109.org                       academic use, see the page
           datasets/Manga109/HR, datasets/Manga109/LR_bicubic/X2 ...
Classic5   test (5 gray). JPEG artefacts.                research use; no licence is stated
           datasets/Classic5/HR
LIVE1      test (29). JPEG artefacts.
           https://live.ece.utexas.edu/research/quality/ research use with citation, see the page
           datasets/LIVE1/HR
CBSD68     test (68): pictures of BSDS500; BSD68 are the same in gray. Denoising.
           https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/bsds/   non-commercial research and education
           datasets/CBSD68/HR, datasets/BSD68/HR
Kodak24    test (24). Denoising.                         released by Kodak for unrestricted use
           https://r0k.us/graphics/kodak/
           datasets/Kodak24/HR
McMaster   test (18). Zhang et al. 2011. Denoising.      research use; no licence is stated
           datasets/McMaster/HR
Set12      test (12 gray). Denoising.                    research use; no licence is stated
           datasets/Set12/HR
sample     12 cuts of pictures that scikit-image ships; in this repository. Quickstart.
           datasets/sample/README.md                     public domain, CC0, or no known restrictions
           datasets/sample/{train,val}/HR, datasets/sample/{train,val}/LR_bicubic/X2

Download a set by hand, put its ground truth into datasets/NAME/HR, then:
  python scripts/prepare_datasets.py lr --hr datasets/NAME/HR --scales 2 3 4"""


def main(argv: list[str]) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.command == "list":
        print(_SOURCES)
        return 0
    import eqmambair  # noqa: F401  makes basicsr importable
    from eqmambair.data import prepare

    workers = getattr(arguments, "workers", 1)
    if workers < 1:
        raise UserError(f"--workers must be at least 1, not {workers}")
    if arguments.command == "sample":
        report = prepare.make_sample(arguments.output, overwrite=arguments.overwrite)
    elif arguments.command == "lr":
        output = arguments.output or arguments.hr.parent / "LR_bicubic"
        report = prepare.make_lr(
            arguments.hr, output, sorted(set(arguments.scales)), suffix=arguments.suffix, workers=workers, overwrite=arguments.overwrite
        )
    elif arguments.command == "subimages":
        report = prepare.make_subimages(
            arguments.input,
            arguments.output,
            size=arguments.size,
            step=arguments.step,
            threshold=arguments.threshold,
            multiple=arguments.multiple,
            workers=workers,
            overwrite=arguments.overwrite,
        )
    elif arguments.command == "lmdb":
        output = arguments.output or arguments.input.with_name(arguments.input.name + ".lmdb")
        report = prepare.make_lmdb(arguments.input, output, recursive=arguments.recursive, overwrite=arguments.overwrite)
    elif arguments.command == "meta":
        output = arguments.output or arguments.input.with_name(f"meta_info_{arguments.input.name}.txt")
        report = prepare.write_meta(arguments.input, output, recursive=arguments.recursive, workers=workers)
    else:
        report = prepare.check(
            arguments.hr, arguments.lr, arguments.scale, suffix=arguments.suffix, min_size=arguments.min_size, workers=workers
        )
        print(f"{report.written} pictures read, {len(report.problems)} problems")
    if arguments.command != "check":
        print(f"{arguments.command}: {report.written} written, {report.kept} there already, {len(report.problems)} problems")
    for problem in report.problems:
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if report.problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prepare_datasets.py", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str, *, workers: bool = True, overwrite: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        if workers:
            sub.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8), help="processes (default: %(default)s)")
        if overwrite:
            sub.add_argument("--overwrite", action="store_true", help="make again what is there already")
        return sub

    sub = command("sample", "cut the embedded sample out of the pictures that scikit-image ships (no download)", workers=False)
    sub.add_argument("--output", type=Path, default=Path("datasets/sample"), help="default: %(default)s")

    sub = command("lr", "make low-resolution pictures by MATLAB-compatible bicubic, mod-cropped: OUTPUT/X2/NAMEx2.png ...")
    sub.add_argument("--hr", type=Path, required=True, help="folder of ground-truth pictures")
    sub.add_argument("--output", type=Path, help="default: LR_bicubic beside the folder of --hr")
    sub.add_argument("--scales", type=int, nargs="+", default=[2, 3, 4], metavar="S", help="default: 2 3 4")
    sub.add_argument("--suffix", default="x{scale}", help="behind each name, {scale} = the scale (default: %(default)s)")

    sub = command("subimages", "cut large pictures into overlapping pieces NAME_s001.png ..., which are faster to read in training")
    sub.add_argument("--input", type=Path, required=True)
    sub.add_argument("--output", type=Path, required=True)
    sub.add_argument("--size", type=int, default=480, help="side of a piece in pixels (default: %(default)s; for LR divide by the scale)")
    sub.add_argument("--step", type=int, default=240, help="pixels from piece to piece (default: %(default)s; for LR divide by the scale)")
    sub.add_argument("--threshold", type=int, default=0, help="a rest of at most so many pixels is left out (default: %(default)s)")

    sub.add_argument("--multiple", type=int, default=1, help="crop each picture to a multiple of this first: the scale, for ground truth")

    sub = command("lmdb", "put the files of a folder, byte for byte, into an LMDB in basicsr's layout", workers=False)
    sub.add_argument("--input", type=Path, required=True)
    sub.add_argument("--output", type=Path, help="a name that ends in .lmdb (default: INPUT.lmdb)")
    sub.add_argument("--recursive", action="store_true", help="sub-folders too; their names become part of the keys")

    sub = command("meta", "write a meta_info file: one line 'NAME (h,w,c)' for each picture", overwrite=False)
    sub.add_argument("--input", type=Path, required=True)
    sub.add_argument("--output", type=Path, help="default: meta_info_INPUT.txt beside the folder")
    sub.add_argument("--recursive", action="store_true", help="sub-folders too")

    sub = command(
        "check", "read every picture and name what is damaged, too small, of another kind, unpaired or of a wrong size", overwrite=False
    )
    sub.add_argument("--hr", type=Path, required=True, help="folder of ground-truth pictures")
    sub.add_argument("--lr", type=Path, help="folder of low-resolution pictures that belong to them")
    sub.add_argument("--scale", type=int, default=1, help="of --lr (default: %(default)s)")
    sub.add_argument("--suffix", help="what the names in --lr carry more (default: nothing, xS or _xS)")
    sub.add_argument("--min_size", type=int, default=1, help="smallest side allowed, for example the training crop")

    command("list", "where each training and test set comes from, its terms, and the layout expected", workers=False, overwrite=False)
    return parser


def cli() -> None:
    run(main)
