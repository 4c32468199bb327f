include { quoted ; threads } from '../shell'

// A peer on one split, in the peers' own environment (scvi-tools, MOFA+, muon). A failure becomes a row of the table.
process PEER {
    tag "${run.id}"
    label 'process_medium'
    label 'image_peers'

    input:
    tuple val(run), path(split, stageAs: 'task') // run: [ id, method, variant ]
    path program                                // needs nothing of this package

    output:
    tuple val(run), path('result'), emit: result
    tuple val("${task.process}"), val('peers'), eval('(peers-python --version || echo absent) | sed "s/.* //"'), topic: versions

    script:
    """
    ${threads(task.cpus)}
    export NUMBA_CACHE_DIR="\${NUMBA_CACHE_DIR:-\$PWD/.numba}" MPLCONFIGDIR="\${MPLCONFIGDIR:-\$PWD/.matplotlib}"
    peers-python -I ${program} ${quoted(run.method)} task result ${quoted(run.variant)}
    """

    stub:
    """
    mkdir result
    echo '{}' > result/run.json
    """
}
