"""PSNR, SSIM and PSNR-B by the published protocol."""

from eqmambair.metrics.psnr_ssim import CHANNELS, Channel, average, check_measurable, psnr, ssim, to_eight_bit
from eqmambair.metrics.psnrb import psnrb

__all__ = ["CHANNELS", "Channel", "average", "check_measurable", "psnr", "psnrb", "ssim", "to_eight_bit"]
