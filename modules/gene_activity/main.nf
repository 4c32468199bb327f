include { named ; options ; threads } from '../shell'

// Accessibility over genes, from the fragments where all samples have them, else from the peaks
process GENE_ACTIVITY {
    label 'process_medium'
    label 'image_cpu'

    input:
    path embedding
    tuple val(samples), path(fragments, stageAs: 'fragments?/*'), val(mapped), path(maps, stageAs: 'maps?/*') // in one order; all may be []
    val settings // [ genome, chrom_style, mito_contig ]
    path chrom_sizes, stageAs: 'genome/chrom_sizes/*'
    path gtf, stageAs: 'genome/gtf/*'

    output:
    path 'gene_activity.h5ad', emit: table, optional: true
    path 'gene_activity.json', emit: facts // what was made, or why not
    path '*.resources.json', topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    """
    ${threads(task.cpus)}
    multivi-nf-gene-activity --resources gene_activity.resources.json ${embedding} \\
        ${named('fragments', samples, fragments)} ${named('barcode-map', mapped, maps)} \\
        ${options(chrom_sizes: chrom_sizes, gtf: gtf)} ${options(settings)} \\
        --facts=gene_activity.json --output=gene_activity.h5ad
    """

    stub:
    """
    touch gene_activity.h5ad
    echo '{"part": "gene_activity", "done": true}' > gene_activity.json
    echo '{}' > gene_activity.resources.json
    """
}
