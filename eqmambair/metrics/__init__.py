"""PSNR and SSIM by the published protocol."""

from eqmambair.metrics.psnr_ssim import CHANNELS, average, check_measurable, psnr, ssim, to_eight_bit

__all__ = ["CHANNELS", "average", "check_measurable", "psnr", "ssim", "to_eight_bit"]
