include { quoted } from '../shell'

// One of Seurat's three strategies on one split. A failure becomes a row of the table.
process SEURAT {
    tag "${run.id}"
    label 'process_medium'
    label 'image_seurat'

    input:
    tuple val(run), path(split, stageAs: 'task') // run: [ id, method ]
    path program
    path genes, stageAs: 'genes/*'              // table of genes' bodies for peaks, or []

    output:
    tuple val(run), path('result'), emit: result
    tuple val("${task.process}"), val('seurat'), eval('(R_LIBS= R_LIBS_USER=NULL Rscript --vanilla -e "cat(as.character(packageVersion(\'Seurat\')))" 2> /dev/null || echo absent)'), topic: versions

    script:
    """
    export R_LIBS= R_LIBS_USER=NULL # no packages of a user's home
    Rscript --vanilla ${program} ${quoted(run.method)} task result ${genes ? quoted(genes) : ''}
    """

    stub:
    """
    mkdir result
    echo '{}' > result/run.json
    """
}
