"""IMDb, SST-2 and GloVe, for `data.prepare`. The files are kept packed: the task reads them so."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from data.prepare.catalogue import Made, Published, RemoteFile
from data.prepare.download import difference

__all__ = ["SETS"]


def _missing(file: RemoteFile, root: Path) -> str:
    problem = difference(root / file.name, sha256=file.sha256, size=file.size)
    return f"{root / file.name}: {problem}" if problem else ""


# None of the three hosts publishes a checksum. Those below are what independent projects agree on.
# Size and SHA-256: tensorflow_datasets/url_checksums/imdb_reviews.txt in tensorflow/datasets; MD5:
# torchtext's loader.
_IMDB = RemoteFile(
    url="https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
    size=84_125_825,
    md5="7c2ac02c03563afcf9b574c7e56c153a",
    sha256="c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",
)
# SHA-256: two public loaders that verify it (Python and Julia), one of which gives the size too.
# GLUE's SST-2.zip is not what is fetched, as the labels of its test sentences are hidden.
_TREES = RemoteFile(
    url="https://nlp.stanford.edu/sentiment/trainDevTestTrees_PTB.zip",
    size=789_539,
    sha256="5c613a4f673fc74097d523a2c83f38e0cc462984d847b82c7aaf36b01cbbbfcc",
)
# MD5 and SHA-256: several public loaders each; size: one of them.
_GLOVE = RemoteFile(
    url="https://nlp.stanford.edu/data/glove.6B.zip",
    size=862_182_613,
    md5="056ea991adb4740ac6bf1b6d9b50408b",
    sha256="617afb2fe6cbd085c235baf7a465b96f4112bd7f7ccb2b2cbd649fed9cbcf2fb",
)

SETS: dict[str, Published | Made] = {
    "imdb": Published(
        title="IMDb",
        about="50,000 film reviews, negative or positive (Maas et al. 2011)",
        files=(_IMDB,),
        missing=partial(_missing, _IMDB),
    ),
    "sst2": Published(
        title="SST-2",
        about="the Stanford Sentiment Treebank, with labels for all sentences (Socher et al. 2013)",
        files=(_TREES,),
        missing=partial(_missing, _TREES),
    ),
    "glove": Published(
        title="GloVe 6B",
        about="400,000 words' vectors in 50, 100, 200 and 300 dimensions (Pennington et al. 2014)",
        files=(_GLOVE,),
        missing=partial(_missing, _GLOVE),
    ),
}
