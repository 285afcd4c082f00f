"""The options behind ``+compress=NAME``; whoever reads them, in any application, has the resolvers that they use."""

from lightning_compress.conf import resolvers

resolvers.register()
