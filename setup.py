"Build the package from settings.ini, which holds all of its metadata"

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='])
ini.read(here / 'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
readme = here / 'README.md'


def words(key):
    return cfg.get(key, '').split()


statuses = [
    '1 - Planning',
    '2 - Pre-Alpha',
    '3 - Alpha',
    '4 - Beta',
    '5 - Production/Stable',
    '6 - Mature',
    '7 - Inactive',
]
pythons = ['3.10', '3.11', '3.12', '3.13']
extras = {key.removesuffix('_requirements'): words(key) for key in cfg if key.endswith('_requirements')}

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    keywords=words('keywords'),
    author=cfg['author'],
    author_email=cfg['author_email'],
    license=cfg['license'].upper(),
    url=cfg['git_url'],
    project_urls=dict(Documentation=cfg['doc_host'] + cfg['doc_baseurl'], Source=cfg['git_url']),
    classifiers=[
        f"Development Status :: {statuses[int(cfg['status']) - 1]}",
        f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
        *(f'Programming Language :: Python :: {o}' for o in pythons[pythons.index(cfg['min_python']) :]),
    ],
    packages=find_packages(include=[cfg['lib_name'], cfg['lib_name'] + '.*']),
    package_data={cfg['lib_name']: ['data/**/*']},
    include_package_data=True,
    zip_safe=False,
    python_requires=f">={cfg['min_python']}",
    install_requires=words('requirements'),
    extras_require=extras,
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else '',
    long_description_content_type='text/markdown',
    entry_points=dict(
        console_scripts=words('console_scripts'), nbdev=[f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]
    ),
)
