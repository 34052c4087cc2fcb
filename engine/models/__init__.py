"""Everything with gradients: encoders of images and spectra and the space they share. Torch and NumPy only."""

from engine.models.astroclip import AstroClip, AstroClipConfig, Pairs, contrastive_loss, losses

__all__ = ["AstroClip", "AstroClipConfig", "Pairs", "contrastive_loss", "losses"]
